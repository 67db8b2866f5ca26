from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import master as wire
from appliance.contracts import templates as template_wire
from appliance.contracts.node import RegistryLogin
from appliance.cubemaster.mapping import aware, build_request, build_spec, cursor_of, position_of, sandbox_view
from appliance.cubemaster.persistence.sandboxes import Position
from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import BuildId, TemplateId
from appliance.domain.sandbox import EndReason
from appliance.domain.template import Build, BuildStatus
from tests.unit.domain.test_sandbox import NOW, sandbox


@given(at=st.datetimes(timezones=st.just(UTC)), sandbox_id=st.from_regex(r"\Ai[a-z0-9]{20}\Z"))
def test_a_cursor_leads_back_to_where_its_page_ended(at: datetime, sandbox_id: str) -> None:
    position = Position(at, sandbox_id)
    assert position_of(cursor_of(position)) == position


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "MjAyNg==", "gICA", "MjAyNi0wMS0wMVQwMDowMDowMF9faTE="])
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        position_of(cursor)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        aware(datetime(2026, 1, 1))  # noqa: DTZ001
    at = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert aware(at) is at


def test_a_view_that_skips_validation_is_one_that_would_pass_it() -> None:
    ended = sandbox().ended(EndReason.OOM_GUEST, detail="killed 1", at=NOW)
    for one in (sandbox(), ended):
        shown = sandbox_view(one, access_token="token")
        assert wire.SandboxView.model_validate_json(shown.model_dump_json()) == shown


def test_a_template_reaches_the_node_as_it_was_asked_for() -> None:
    new = template_wire.NewTemplate(
        image="registry.example/x:1",
        registry=RegistryLogin(username="u", password="p"),
        vcpus=3,
        memory_mib=700,
        writable_layer_mib=2048,
        start_cmd="serve",
        ready_cmd="check",
        probe_port=80,
        exposed_ports=(80, 81),
    )
    build = Build(BuildId("b"), TemplateId("t"), ("default",), BuildStatus.BUILDING, build_spec(new), NOW)
    request = build_request(build)
    shared = set(type(new).model_fields) & set(type(request).model_fields)
    assert shared >= {"image", "registry", "vcpus", "memory_mib", "writable_layer_mib", "exposed_ports"}
    assert all(getattr(new, name) == getattr(request, name) for name in shared)
