"""What the last /init said: the sandbox this machine is now, and the defaults its processes get."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from guest_agent.errors import HttpError
from guest_agent.identity.certificates import pem_certificates
from guest_agent.plainfile import overwrite, read

_HEX32 = re.compile(r"[0-9a-f]{32}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Session:
    """The defaults every request is served with. Kept on disk, so that a restarted agent still has its token."""

    access_token: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    default_user: str | None = None
    default_workdir: str | None = None
    sandbox_id: str = ""
    template_id: str = ""
    timestamp_ns: int = 0
    """When the node said so, in Unix nanoseconds."""
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Where the disk of each slot that has one is mounted. Slots are decimal numbers, which JSON has as text."""
    ca_bundle: str | None = None
    """PEM certificates that the machine trusts besides its image's, for the headers that its requests get outside."""

    def document(self) -> dict[str, object]:
        """Return the fields by name, for the file."""
        return {name: getattr(self, name) for name in self.__slots__}

    def precedes(self, other: Session) -> bool:
        """Return whether this is an earlier word about the same sandbox."""
        return self.sandbox_id == other.sandbox_id and self.timestamp_ns < other.timestamp_ns


@dataclass(frozen=True, slots=True)
class InitRequest:
    """The body of /init: the session, and what the machine itself must take on."""

    session: Session
    hostname: str | None
    machine_id: str | None
    entropy: bytes
    inherits_env: bool = False
    """Whether variables of the session before stay, where this one does not set them: after a pause, or in a copy."""


def parse_document(body: bytes, name: str) -> dict[str, object]:
    """Return the object that a body holds, or raise HttpError 400."""
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"invalid {name} body: {error}") from error
    if not isinstance(document, dict):
        raise HttpError(400, f"invalid {name} body: not an object")
    return document


def parse_init(body: bytes, *, received_ns: int) -> InitRequest:
    """Return the request, or raise HttpError 400. Unknown fields are ignored; a missing timestamp means now."""
    document = parse_document(body, "init")
    hostname = _text(document, "hostname")
    machine_id = _text(document, "machineId")
    if hostname and not _HOSTNAME.fullmatch(hostname):
        raise HttpError(400, f"invalid hostname: {hostname!r}")
    if machine_id and not _HEX32.fullmatch(machine_id):
        raise HttpError(400, "invalid machineId: not 32 lower-case hexadecimal digits")
    if document.get("accessToken") == "":
        # Only null means an open sandbox: a token that got lost on the way must not open one.
        raise HttpError(400, "invalid accessToken: empty")
    session = Session(
        access_token=_text(document, "accessToken"),
        env_vars=_env_vars(document.get("envVars")),
        default_user=_text(document, "defaultUser"),
        default_workdir=_text(document, "defaultWorkdir"),
        sandbox_id=_text(document, "sandboxId") or "",
        template_id=_text(document, "templateId") or "",
        timestamp_ns=_timestamp_ns(_text(document, "timestamp"), received_ns),
        volumes=_volumes(document.get("volumeMounts")),
        ca_bundle=ca_bundle(document),
    )
    inherits_env = document.get("inheritEnv") is True
    return InitRequest(session, hostname, machine_id, _entropy(_text(document, "entropy")), inherits_env)


def ca_bundle(document: Mapping[str, object]) -> str | None:
    """Return the certificates in `caBundle` as clean PEM, or raise HttpError 400. None where there are none."""
    text = _text(document, "caBundle")
    try:
        return None if text is None else pem_certificates(text)
    except ValueError as error:
        raise HttpError(400, f"invalid caBundle: {error}; give certificates in PEM form") from error


def _text(document: Mapping[str, object], name: str) -> str | None:
    value = document.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise HttpError(400, f"invalid {name}: not a string")
    return value


def _env_vars(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise HttpError(400, "invalid envVars: not an object of strings")
    return dict(value)


def _volumes(value: object) -> dict[str, str]:
    volumes: dict[str, str] = {}
    for mount in value if isinstance(value, list) else ():
        slot, path = (mount.get("slot"), mount.get("path")) if isinstance(mount, dict) else (None, None)
        if type(slot) is not int or slot < 0 or not isinstance(path, str) or not path.startswith("/"):
            raise HttpError(400, "invalid volumeMounts: not slots with absolute paths")
        volumes[str(slot)] = path
    return volumes


def _entropy(value: str | None) -> bytes:
    try:
        return base64.b64decode(value or "", validate=True)
    except binascii.Error as error:
        raise HttpError(400, "invalid entropy: not base64") from error


def _timestamp_ns(value: str | None, received_ns: int) -> int:
    if value is None:
        return received_ns
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise HttpError(400, f"invalid timestamp: {value!r}") from error
    if moment.tzinfo is None:
        raise HttpError(400, "invalid timestamp: no time zone")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


class SessionStore:
    """The current session, and its copy in a file that only root reads."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._directory = str(path.parent)
        self._temporary = self._path + ".new"
        self._current = self._load()

    @property
    def current(self) -> Session | None:
        """None until the first /init."""
        return self._current

    def replace(self, session: Session) -> None:
        """Take on `session`, and write it where a restarted agent finds it."""
        if not os.path.isdir(self._directory):  # noqa: PTH112 - one call, on the way of every create
            os.makedirs(self._directory, mode=0o755)  # noqa: PTH103
        overwrite(self._temporary, json.dumps(session.document()), mode=0o600)
        os.replace(self._temporary, self._path)  # noqa: PTH105 - plain strings here
        self._current = session

    def _load(self) -> Session | None:
        try:
            return Session(**json.loads(read(self._path) or ""))
        except (OSError, ValueError, TypeError):
            # A file that cannot be read is no session: the agent answers 503 until the node says /init again.
            return None
