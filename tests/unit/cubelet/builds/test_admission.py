from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts.node import BuildRequest
from appliance.cubelet.builds.admission import admitted_steps
from appliance.domain.errors import InvalidRequest


def _request(**changes: Any) -> BuildRequest:
    fields = {"template_id": "t", "build_id": "b", "vcpus": 1, "memory_mib": 256, "writable_layer_mib": 16}
    return BuildRequest.model_validate({**fields, **changes})


def test_an_operators_image_has_no_steps() -> None:
    assert admitted_steps(_request(image="oci:/images/base")) is None


def test_a_tenants_build_starts_from_a_registry_or_a_build() -> None:
    assert admitted_steps(_request(image="docker.io/library/debian:12", steps=())) == ()
    assert admitted_steps(_request(from_build="other", steps=())) == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "either image or from_build"),
        ({"image": "debian", "from_build": "other", "steps": ()}, "either image or from_build"),
        ({"from_build": "other"}, "send `steps: \\[\\]`"),
        ({"image": "debian", "force": True}, "force is for builds with steps"),
        ({"image": "oci:/images/base", "steps": ()}, "an image in a registry"),
        ({"image": "docker-archive:/etc/shadow", "steps": ()}, "an image in a registry"),
        ({"image": "dir:/etc", "steps": ()}, "not an image reference"),
        (
            {"from_build": "other", "steps": (), "registry": {"username": "u", "password": "p"}},
            "registry is for image",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        admitted_steps(_request(**changes))
