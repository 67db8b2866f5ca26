"""What a build logs in with at the registry of its image."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from appliance.domain.errors import InvalidRequest

_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_]{16,128}")
# Of the partitions of AWS that the internet reaches. It becomes part of a host's name.
_REGION = re.compile(r"(?:[a-z]{2}|[a-z]{2}-gov|eusc-[a-z]{2})-[a-z]{2,16}-[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    username: str
    password: str = field(repr=False)
    aws_region: str | None = None
    """Where set, the two are an access key of AWS, for which Amazon's registry in that region gives the real login."""

    def __post_init__(self) -> None:
        if self.aws_region is None:
            return
        if not _REGION.fullmatch(self.aws_region):
            raise InvalidRequest(
                f"fromImageRegistry.awsRegion: {self.aws_region[:32]!r} is no region of AWS; write it like 'eu-west-1'"
            )
        if not _ACCESS_KEY_ID.fullmatch(self.username):
            raise InvalidRequest(
                "fromImageRegistry.awsAccessKeyId is not the id of an access key: 16 to 128 letters, digits or '_'"
            )
