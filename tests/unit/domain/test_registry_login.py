from __future__ import annotations

import pytest

from appliance.domain.errors import InvalidRequest
from appliance.domain.registry_login import RegistryLogin

KEY = "AKIDEXAMPLE01234"


@pytest.mark.parametrize(
    "region", ["eu-west-1", "us-gov-east-1", "cn-northwest-1", "eusc-de-east-1", "ap-southeast-12"]
)
def test_a_region_of_aws_will_do(region: str) -> None:
    assert RegistryLogin(KEY, "s", region).aws_region == region


@pytest.mark.parametrize(
    "region",
    ["", "eu", "eu-west", "EU-WEST-1", "eu-west-1a", "eu-west-1.evil.example/", "us-iso-east-1", "eu-west-1\n", "-a-1"],
)
def test_what_is_none_is_refused_by_name(region: str) -> None:
    with pytest.raises(InvalidRequest, match=r"fromImageRegistry\.awsRegion: .* is no region of AWS"):
        RegistryLogin(KEY, "s", region)


@pytest.mark.parametrize("key_id", ["", "short", "a" * 129, "AKIDEXAMPLE0123/", f"{KEY}\nHost: x"])
def test_the_id_of_an_access_key_cannot_be_anything(key_id: str) -> None:
    with pytest.raises(InvalidRequest, match="awsAccessKeyId") as raised:
        RegistryLogin(key_id, "s", "eu-west-1")
    assert "Host" not in raised.value.message


def test_the_secret_is_not_in_the_representation() -> None:
    assert "s3cret" not in repr(RegistryLogin(KEY, "s3cret", "eu-west-1"))
    assert RegistryLogin("any name", "of another registry").aws_region is None
