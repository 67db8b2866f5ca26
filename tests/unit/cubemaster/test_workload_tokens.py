from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from appliance.common.clock import FakeClock
from appliance.cubemaster.services.workload_tokens import WorkloadTokens
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.sandbox import Sandbox, SandboxState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "ab" * 32


def tokens(key: str = KEY, *, domain: str = "cube.test") -> WorkloadTokens:
    return WorkloadTokens(key, domain=domain, clock=FakeClock())


def sandbox() -> Sandbox:
    return Sandbox(
        sandbox_id=SandboxId("i1"),
        team_id=TeamId("team-1"),
        template_id=TemplateId("t"),
        build_id=BuildId("b"),
        alias=None,
        node_id=NodeId("n"),
        state=SandboxState.RUNNING,
        resources=Resources(1, 128),
        disk_size_mib=1,
        envd_version="0",
        secure=True,
        started_at=NOW,
        end_at=NOW,
    )


def claims(token: str, by: WorkloadTokens) -> dict[str, Any]:
    (jwk,) = by.public_keys
    # The clock of this test stands still.
    return dict(
        jwt.decode(
            token,
            jwt.PyJWK(jwk),
            algorithms=["ES256"],
            audience="sts",
            options={"verify_exp": False, "verify_iat": False},
        )
    )


def test_a_token_names_issuer_sandbox_and_audience_for_an_hour() -> None:
    signer = tokens()
    said = claims(signer.sign(sandbox(), "sts"), signer)
    assert said["iss"] == signer.issuer == "https://api.cube.test"
    assert said["sub"] == "spiffe://cube.test/team/team-1/sandbox/i1"
    assert timedelta(seconds=said["exp"] - said["iat"]) == timedelta(hours=1)
    assert said.keys() == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert claims(signer.sign(sandbox(), "sts"), signer)["jti"] != said["jti"]


def test_every_master_with_the_same_secret_has_the_same_key() -> None:
    assert tokens().public_keys == tokens().public_keys
    assert claims(tokens().sign(sandbox(), "sts"), tokens())["sub"].endswith("i1")


def test_another_secret_is_another_key() -> None:
    other = tokens("cd" * 32)
    assert other.public_keys[0]["kid"] != tokens().public_keys[0]["kid"]
    with pytest.raises(jwt.InvalidSignatureError):
        claims(other.sign(sandbox(), "sts"), tokens())


def test_no_private_part_is_public() -> None:
    (key,) = tokens().public_keys
    assert key.keys() == {"kty", "crv", "x", "y", "use", "alg", "kid"}
