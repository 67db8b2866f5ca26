from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import templates as wire
from appliance.domain.build_steps import BuildStep, StepType
from appliance.domain.errors import Conflict, InvalidRequest
from appliance.domain.ids import BuildId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.registry_login import RegistryLogin
from appliance.domain.template import (
    Build,
    BuildSpec,
    BuildStatus,
    ReplicaState,
    TemplateReference,
    build_status,
    parse_build_name,
    parse_reference,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", TemplateReference("base")),
        ("  Base ", TemplateReference("base")),
        ("code-interpreter-v1", TemplateReference("code-interpreter-v1")),
        ("team/base", TemplateReference("base", namespace="team")),
        ("base:v1.2", TemplateReference("base", tag="v1.2")),
        ("team/base:v1", TemplateReference("base", namespace="team", tag="v1")),
        ("base:default", TemplateReference("base")),
    ],
)
def test_references_are_namespace_name_and_tag(text: str, expected: TemplateReference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "base:",
        "/base",
        "team/",
        "a/b/c",
        "ba se",
        "base:v 1",
        "base:v1:v2",
        "bäse",
        "base.v1",
        "team.x/base",
        "base:5f0c9f1e-6f0a-4c4b-9a6e-0d9b1d2c3e4f",
        "base:5f0c9f1e6f0a4c4b9a6e0d9b1d2c3e4f",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
tags = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20)


@given(name=names, namespace=st.none() | names, tag=tags)
def test_a_reference_reads_back_as_it_was_written(name: str, namespace: str | None, tag: str) -> None:
    reference = TemplateReference(name, namespace, tag)
    assert parse_reference(str(reference)) == reference


@given(text=st.text(max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("name", "tags", "expected"),
    [
        ("App", (), ("app", ("default",))),
        ("app:V1", (), ("app", ("v1",))),
        ("app:v1", ("stable", "V1"), ("app", ("v1", "stable"))),
        (" team/app ", ("v2",), ("app", ("v2",))),
        ("app:default", ("v2",), ("app", ("default", "v2"))),
    ],
)
def test_a_build_has_the_tags_of_its_name_and_of_its_list(
    name: str, tags: tuple[str, ...], expected: tuple[str, tuple[str, ...]]
) -> None:
    named, all_tags = parse_build_name(name, tags)
    assert (named.name, all_tags) == expected


@pytest.mark.parametrize(
    ("name", "tags", "message"),
    [
        ("", (), "Name is required"),
        ("  ", ("v1",), "Name is required"),
        ("app:", (), "Invalid name"),
        (":v1", (), "Invalid name"),
        ("no spaces", (), "Invalid name"),
        ("x" * 129, (), "Invalid name"),
        ("app", ("no spaces",), "Invalid tag"),
        ("app", ("",), "Invalid tag"),
        ("app", ("x" * 129,), "Invalid tag"),
        ("app:5f0c9f1e-6f0a-4c4b-9a6e-0d9b1d2c3e4f", (), "Invalid name"),
    ],
)
def test_names_that_a_build_cannot_have(name: str, tags: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_build_name(name, tags)


@given(name=names, namespace=st.none() | names, listed=st.lists(tags, max_size=4))
def test_tags_are_never_none_and_never_twice(name: str, namespace: str | None, listed: list[str]) -> None:
    named, all_tags = parse_build_name(f"{namespace}/{name}".upper() if namespace else name, listed)
    assert (named.name, named.namespace) == (name, namespace)
    assert set(all_tags) == (set(listed) or {"default"})
    assert len(all_tags) == len(set(all_tags))


@given(states=st.lists(st.sampled_from(ReplicaState), max_size=5))
def test_a_build_goes_on_while_a_node_is_at_it_and_then_needs_one_success(states: list[ReplicaState]) -> None:
    verdict = build_status(states)
    if not states or ReplicaState.BUILDING in states:
        assert verdict is BuildStatus.BUILDING
    elif ReplicaState.READY in states:
        assert verdict is BuildStatus.READY
    else:
        assert verdict is BuildStatus.ERROR


def _build(status: BuildStatus) -> Build:
    spec = BuildSpec("oci:/x", RegistryLogin("user", "secret"), Resources(1, 512), 1024)
    return Build(BuildId("b"), TemplateId("t"), ("default",), status, spec, NOW)


def test_secrets_are_kept_no_longer_than_the_build() -> None:
    draft = _build(BuildStatus.WAITING)
    steps = (BuildStep(StepType.ENV, ("TOKEN", "secret")),)
    building = draft.started(replace(draft.spec, steps=steps), at=NOW)
    assert building.spec.registry_login == RegistryLogin("user", "secret")
    for ended in (building.ready(at=NOW), building.failed("no", step=None, at=NOW)):
        assert (ended.spec.registry_login, ended.spec.steps) == (None, ())


@pytest.mark.parametrize("status", [BuildStatus.READY, BuildStatus.ERROR])
def test_a_build_that_ended_stays_as_it_is(status: BuildStatus) -> None:
    with pytest.raises(Conflict):
        _build(status).failed("late", step=None, at=NOW)
    with pytest.raises(Conflict):
        _build(status).started(_build(status).spec, at=NOW)


def test_the_wire_knows_the_same_statuses() -> None:
    assert {one.value for one in BuildStatus} == {one.value for one in wire.BuildStatus}
