"""Identifiers: what they look like and how they are made. One `NewType` each, so they cannot be swapped."""

from __future__ import annotations

import re
import secrets
import string
from typing import NewType

SandboxId = NewType("SandboxId", str)
TemplateId = NewType("TemplateId", str)
BuildId = NewType("BuildId", str)
NodeId = NewType("NodeId", str)
TeamId = NewType("TeamId", str)
VmId = NewType("VmId", str)
VolumeId = NewType("VolumeId", str)

_ALPHABET = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 20

# A DNS label without a dash: hosts are `<port>-<sandboxID>.<domain>` and are parsed at the first dash.
SANDBOX_ID = re.compile(r"i[a-z0-9]{20}")
VOLUME_ID = re.compile(r"vol_[a-z0-9]{20}")
API_KEY = re.compile(r"e2b_[0-9a-f]{40}")


def _suffix() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SUFFIX_LENGTH))


def new_sandbox_id() -> SandboxId:
    """Return a fresh id: `i` and 20 of [a-z0-9], about 103 bits."""
    return SandboxId("i" + _suffix())


def new_template_id() -> TemplateId:
    """Return a fresh id: 20 of [a-z0-9]."""
    return TemplateId(_suffix())


def new_volume_id() -> VolumeId:
    """Return a fresh id: `vol_` and 20 of [a-z0-9]."""
    return VolumeId("vol_" + _suffix())


def new_api_key() -> str:
    """Return a fresh key: `e2b_` and 40 lowercase hex digits, the only form every SDK accepts."""
    return "e2b_" + secrets.token_hex(20)


def new_revision() -> str:
    """Return a fresh name of a sandbox's network rules."""
    return secrets.token_hex(16)
