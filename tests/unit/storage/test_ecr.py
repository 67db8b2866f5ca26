from __future__ import annotations

import json
from pathlib import Path

import botocore
import pytest

from appliance.domain.errors import InvalidRequest
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.ecr import EcrApi, curl_argv, signed_headers

KEYS = RegistryLogin("AKIDEXAMPLE01234", "s3cret", "eu-west-1")
_PARTITIONS = json.loads((Path(botocore.__file__).parent / "data" / "partitions.json").read_text())["partitions"]
REGIONS = {
    region: (partition["id"], partition["outputs"]["dnsSuffix"])
    for partition in _PARTITIONS
    for region in partition["regions"]
    if not region.endswith("-global")
}


@pytest.mark.parametrize("region", REGIONS)
def test_every_region_that_the_internet_reaches_is_asked_where_amazon_has_it(region: str) -> None:
    partition, suffix = REGIONS[region]
    if partition.startswith("aws-iso"):
        with pytest.raises(InvalidRequest):
            RegistryLogin("AKIDEXAMPLE01234", "s", region)
    else:
        assert RegistryLogin("AKIDEXAMPLE01234", "s", region)
        assert EcrApi().host(region) == f"api.ecr.{region}.{suffix}"


def test_no_secret_is_in_the_argv_nor_in_what_is_sent() -> None:
    url = "https://api.ecr.eu-west-1.amazonaws.com/"
    argv = curl_argv(url, trust=None)
    assert (argv[:2], argv[-1]) == (["curl", "--disable"], url)
    assert "--cacert" not in argv
    assert argv[argv.index("--proto") + 1] == "=https"
    headers = signed_headers(url, KEYS, "eu-west-1").decode()
    assert "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE01234/" in headers
    assert "s3cret" not in headers + " ".join(argv)
