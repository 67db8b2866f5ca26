"""Logins at Amazon's registries (ECR), which take no access key: AWS gives a password for one, good for 12 hours.

The secret stays in this process. What asks AWS is a program like the one that pulls, in the network of a pull, and all
it gets is a request that is signed already.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from appliance.common.process import CommandFailed, run
from appliance.domain.errors import DeadlineExceeded, ImageRejected, RegistryLoginRefused, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.confinement import Ceiling, confined
from appliance.storage.pull_network import Reach, pull_network
from appliance.storage.source import as_objects, parse_object

_ACTION = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_BODY = "{}"
_DEADLINE = timedelta(seconds=60)
_ANSWER_MAX_BYTES = 64 * 1024
_CEILING = Ceiling(address_space_bytes=2**30, cpu_s=10, file_bytes=0, tasks=16)
_DOMAINS = {"cn": "amazonaws.com.cn", "eusc": "amazonaws.eu"}
"""Of the partitions that have one of their own, by the first word of their regions."""
_CODE = re.compile(r"(?:.*#)?(?P<code>[A-Za-z]{1,64})")


@dataclass(frozen=True, slots=True)
class EcrApi:
    """Where AWS is asked. Only a test's port and certificate differ from these."""

    port: int = 443
    trust: Path | None = None
    """PEM certificates in place of the node's trust store."""

    def host(self, region: str) -> str:
        """Return `host[:port]` of a region, as `internal_registries` spells it."""
        name = f"api.ecr.{region}.{_DOMAINS.get(region.partition('-')[0], 'amazonaws.com')}"
        return name if self.port == 443 else f"{name}:{self.port}"


async def exchanged(keys: RegistryLogin, region: str, *, reach: Reach, api: EcrApi) -> RegistryLogin:
    """Return the login that AWS gives for an access key.

    Raises RegistryLoginRefused, StorageFailure, DeadlineExceeded, or ImageRejected where the node may not ask AWS.
    """
    host = api.host(region)
    url = f"https://{host}/"
    async with pull_network(host, reach) as network:
        try:
            done = await run(
                [*network.entered_by, *confined(curl_argv(url, trust=api.trust), _CEILING)],
                stdin=signed_headers(url, keys, region),
                deadline=_DEADLINE,
                max_output_bytes=_ANSWER_MAX_BYTES,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **network.environment},
            )
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"the login at '{host}'", _DEADLINE.total_seconds()) from error
        except CommandFailed as error:
            why = network.way_out.failed or error.stderr.decode(errors="replace").strip() or str(error)
            raise network.rejection() or StorageFailure(f"AWS cannot be asked for a login: {why}") from error
    body, _, status = done.stdout.rpartition(b"\n")
    return _login(int(status), body)


def curl_argv(url: str, *, trust: Path | None) -> list[str]:
    """Return curl's argv for a POST whose headers come on stdin. It prints the answer's body, and its status below."""
    return [
        "curl",
        "--disable",
        "--silent",
        "--show-error",
        *("--proto", "=https"),
        *("--header", "@-"),
        *("--data", _BODY),
        *("--write-out", "\n%{http_code}"),
        *(("--cacert", str(trust)) if trust is not None else ()),
        url,
    ]


def signed_headers(url: str, keys: RegistryLogin, region: str) -> bytes:
    """Return the headers of a request for a login, one a line, signed (SigV4)."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": _ACTION}
    request = AWSRequest(method="POST", url=url, data=_BODY, headers=headers)
    SigV4Auth(Credentials(keys.username, keys.password), "ecr", region).add_auth(request)
    return "".join(f"{name}: {value}\n" for name, value in request.headers.items()).encode()


def _login(status: int, body: bytes) -> RegistryLogin:
    try:
        answer = parse_object(body, "answer of AWS to a login")
    except ImageRejected as error:
        raise StorageFailure(f"AWS answered a login with status {status} and no JSON object") from error
    if status != 200:
        code = _CODE.fullmatch(str(answer.get("__type", "")))
        if code is None or status >= 500:
            raise StorageFailure(f"AWS answered a login with status {status}; try again")
        raise RegistryLoginRefused(code["code"])
    try:
        (data, *_) = as_objects(answer.get("authorizationData"), "authorizationData")
        username, colon, password = base64.b64decode(str(data.get("authorizationToken")), validate=True).partition(b":")
        if not colon:
            raise ValueError("no password")
        return RegistryLogin(username.decode(), password.decode())
    except (ImageRejected, ValueError, binascii.Error) as error:
        raise StorageFailure("AWS answered a login with something that is none") from error
