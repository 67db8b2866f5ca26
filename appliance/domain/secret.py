"""Secrets of teams: how one is named, and how much it may hold."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from appliance.domain.errors import InvalidRequest, NotFound

ID_PREFIX = "sec_"
MAX_VALUE_BYTES = 64 * 1024
MAX_PER_TEAM = 1000
KEPT_VERSIONS = 10
"""Older ones are removed: an update may come any number of times."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_ENTRIES = 32
_MAX_KEY_BYTES = 128
_MAX_ENTRY_BYTES = 1024
_MAX_METADATA_BYTES = 8192


class SecretNotFound(NotFound):
    def __init__(self, selector: str) -> None:
        super().__init__("Secret not found")
        self.selector = selector


def new_secret_id() -> str:
    return ID_PREFIX + secrets.token_hex(16)


def parse_name(text: str) -> str:
    """Return the name as it is stored, in lower case, or raise InvalidRequest."""
    if not _NAME.fullmatch(text):
        raise InvalidRequest("Invalid secret name: use 1 to 128 of a-z, A-Z, 0-9, _ and -")
    name = text.lower()
    if name.startswith(ID_PREFIX):
        raise InvalidRequest(f"Invalid secret name: {ID_PREFIX} begins the ids of secrets")
    return name


def parse_selector(text: str) -> str:
    """Return an id or a name, as a path has it, in lower case; what can be neither is not found."""
    if not _NAME.fullmatch(text):
        raise SecretNotFound(text)
    return text.lower()


def check_value(value: str) -> None:
    # Never the value itself in a message.
    if not value:
        raise InvalidRequest("value must not be empty")
    if _size(value) > MAX_VALUE_BYTES:
        raise InvalidRequest(f"value has more than {MAX_VALUE_BYTES} bytes")


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > _MAX_ENTRIES:
        raise InvalidRequest(f"metadata has more than {_MAX_ENTRIES} entries")
    if any(_size(key) > _MAX_KEY_BYTES for key in metadata):
        raise InvalidRequest(f"a key of metadata has more than {_MAX_KEY_BYTES} bytes")
    if any(_size(value) > _MAX_ENTRY_BYTES for value in metadata.values()):
        raise InvalidRequest(f"a value of metadata has more than {_MAX_ENTRY_BYTES} bytes")
    if sum(_size(key) + _size(value) for key, value in metadata.items()) > _MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata has more than {_MAX_METADATA_BYTES} bytes")


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest("text with half of a surrogate pair cannot be stored") from error
