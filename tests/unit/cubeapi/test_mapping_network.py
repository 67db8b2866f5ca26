"""Network rules from E2B's shapes to CubeMaster's and back. Nothing of them is dropped, and no credential shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from appliance.common.clock import FakeClock
from appliance.contracts import egress
from appliance.contracts.e2b_network import Iam, NetworkShown, NetworkUpdate
from appliance.cubeapi.mapping_network import new_egress, openid_configuration, workload_tokens
from appliance.cubemaster.services.workload_tokens import WorkloadTokens

CANARY = "hunter2"


def asked(**body: Any) -> egress.Egress:
    return new_egress(NetworkUpdate.model_validate(body), team_id="t")


def test_everything_reaches_cubemaster() -> None:
    new = asked(
        allow_internet_access=False,
        allowOut=["a.com"],
        denyOut=["0.0.0.0/0"],
        dnsServers=[],
        rules={"a.com": [{"transform": {"headers": {"X": "1"}}}], "b.com": [{}], "c.com": []},
        egressProxy={
            "address": "a.com:1",
            "username": "u",
            "password": "p",
            "tls": {"enabled": True, "serverName": "b.com", "caCert": "pem"},
        },
    )
    assert new.model_dump() == {
        "team_id": "t",
        "allow_internet": False,
        "allow_out": ("a.com",),
        "deny_out": ("0.0.0.0/0",),
        "dns_servers": (),
        "rules": {"a.com": ({"headers": {"X": "1"}},), "b.com": ({"headers": {}},), "c.com": ()},
        "egress_proxy": {
            "address": "a.com:1",
            "username": "u",
            "password": "p",
            "tls": {"enabled": True, "server_name": "b.com", "ca_cert": "pem"},
        },
    }


@pytest.mark.parametrize("body", [{}, {"rules": None, "egressProxy": None, "dnsServers": None, "allowOut": None}])
def test_what_is_left_out_or_null_is_at_its_default(body: dict[str, Any]) -> None:
    assert asked(**body) == asked()
    assert (asked().dns_servers, asked().egress_proxy, asked().rules) == (None, None, {})


@pytest.mark.parametrize(
    "body",
    [
        {"rules": {"a.com": [{"transform": {"headers": {"X": {"v": CANARY}}}}]}},
        {"rules": {"a.com": {"headers": CANARY}}},
        {"egressProxy": {"username": CANARY}},
        {"egressProxy": {"address": "a.com:1", "password": [CANARY]}},
        {"egressProxy": {"address": "a.com:1", "tls": {"caCert": CANARY}}},
        {"egressProxy": f"socks5://u:{CANARY}@a.com"},
    ],
)
def test_an_error_repeats_no_input(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        NetworkUpdate.model_validate(body)
    assert CANARY not in str(refused.value)


def test_shapes_show_no_credentials() -> None:
    tls = {"enabled": True, "caCert": CANARY}
    body = {
        "rules": {"a.com": [{"transform": {"headers": {"X": CANARY}}}]},
        "egressProxy": {"address": "a.com:1", "username": "u", "password": CANARY, "tls": tls},
    }
    assert CANARY not in repr(NetworkUpdate.model_validate(body))
    assert CANARY not in repr(asked(**body))
    assert not {"password", "caCert"} & set(str(NetworkShown.model_json_schema()).split("'"))


def test_tokens_keep_what_was_written_for_cubemaster_to_judge() -> None:
    iam = Iam.model_validate({"tokens": {"aws": {"audience": "sts", "tokenType": "JWT-SVID"}, "bare": {}}})
    assert workload_tokens(iam) == {
        "aws": egress.WorkloadToken(audience="sts", token_type="JWT-SVID"),
        "bare": egress.WorkloadToken(audience="", token_type=""),
    }
    assert workload_tokens(None) == workload_tokens(Iam()) == {}


def test_the_configuration_says_where_the_keys_are() -> None:
    signer = WorkloadTokens("ab" * 32, domain="cube.test", clock=FakeClock())
    found = openid_configuration(egress.SigningKeys(issuer=signer.issuer, keys=signer.public_keys))
    assert found.issuer == "https://api.cube.test"
    assert found.jwks_uri == "https://api.cube.test/.well-known/jwks.json"
    assert found.id_token_signing_alg_values_supported == ("ES256",)
