"""The steps of E2B's template builder, as values: pure parsing, one class a type of step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.contracts.node import BuildStep
from appliance.domain.build_steps import leads_out
from appliance.domain.errors import InvalidRequest

MAX_STEPS = 1000
MAX_STEP_BYTES = 100 * 1024
"""Below what Linux takes as one argument of a program, 128 KiB."""

_FILES_HASH = re.compile(r"[0-9a-f]{64}")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_OWNER = re.compile(r"[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?")
_MODE = re.compile(r"[0-7]{3,5}")


@dataclass(frozen=True, slots=True)
class Run:
    """A shell command."""

    command: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Copy:
    """Files of a tar into the guest. Source and destination as the client wrote them."""

    source: str
    destination: str
    files_hash: str
    owner: str | None
    """`user` or `user:group`."""
    mode: str | None


@dataclass(frozen=True, slots=True)
class Env:
    variables: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Workdir:
    path: str


@dataclass(frozen=True, slots=True)
class User:
    name: str
    sudo: bool


Action = Run | Copy | Env | Workdir | User


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `source` is what keys and logs say of it."""

    action: Action
    source: BuildStep

    @property
    def force(self) -> bool:
        return self.source.force

    @property
    def text(self) -> str:
        return " ".join((self.source.type.upper(), *self.source.args))


def parse_steps(steps: Sequence[BuildStep]) -> tuple[Step, ...]:
    """Return what the steps mean, or raise InvalidRequest with the number of the one that means nothing."""
    if len(steps) > MAX_STEPS:
        raise InvalidRequest(f"a build has at most {MAX_STEPS} steps, not {len(steps)}")
    return tuple(Step(_action(step, f"step {number} ({step.type})"), step) for number, step in enumerate(steps, 1))


def _action(step: BuildStep, what: str) -> Action:
    if sum(len(argument.encode()) for argument in step.args) > MAX_STEP_BYTES:
        raise InvalidRequest(f"{what} has more than {MAX_STEP_BYTES} bytes of arguments")
    if any("\0" in argument for argument in step.args):
        raise InvalidRequest(f"{what} has a NUL character in its arguments")
    kind = step.type.upper()
    if step.files_hash is not None and kind != "COPY":
        raise InvalidRequest(f"{what} has files_hash, which only COPY can use")
    match kind:
        case "RUN":
            return _run(step.args, what)
        case "COPY":
            return _copy(step, what)
        case "ENV":
            return _env(step.args, what)
        case "WORKDIR":
            (path,) = _between(step.args, 1, 1, what, "a path")
            return Workdir(_present(path, what, "path"))
        case "USER":
            return _user(step.args, what)
    raise InvalidRequest(f"{what}: the type is none of RUN, COPY, ENV, WORKDIR, USER")


def _run(args: Sequence[str], what: str) -> Run:
    command, *user = _between(args, 1, 2, what, "a command and perhaps a user")
    name = user[0] if user and user[0] else None
    if name is not None and (":" in name or not name.isprintable()):
        raise InvalidRequest(f"{what}: {name!r} cannot be a user's name")
    return Run(_present(command, what, "command"), name)


def _copy(step: BuildStep, what: str) -> Copy:
    source, destination, *rest = _between(step.args, 2, 4, what, "source, destination and perhaps owner and mode")
    owner, mode = [*rest, "", ""][:2]
    if step.files_hash is None or not _FILES_HASH.fullmatch(step.files_hash):
        raise InvalidRequest(f"{what} needs files_hash, the SHA-256 of its files as 64 hex digits")
    if owner and not _OWNER.fullmatch(owner):
        raise InvalidRequest(f"{what}: owner {owner!r} is not user or user:group")
    if mode and not _MODE.fullmatch(mode):
        raise InvalidRequest(f"{what}: mode {mode!r} is not three to five octal digits")
    if leads_out(source):
        raise InvalidRequest(f"{what}: source {source!r} does not lie within the files that were uploaded")
    return Copy(
        source=_present(source, what, "source"),
        destination=_present(destination, what, "destination"),
        files_hash=step.files_hash,
        owner=owner or None,
        mode=mode or None,
    )


def _env(args: Sequence[str], what: str) -> Env:
    if not args or len(args) % 2:
        raise InvalidRequest(f"{what} takes pairs of a name and a value, not {len(args)} arguments")
    names, values = args[::2], args[1::2]
    for name in names:
        if not name or "=" in name:
            raise InvalidRequest(f"{what}: {name!r} cannot be the name of a variable")
    return Env(tuple(zip(names, values, strict=True)))


def _user(args: Sequence[str], what: str) -> User:
    name, *sudo = _between(args, 1, 2, what, "a name and perhaps `true` for sudo")
    if not _ACCOUNT.fullmatch(name):
        raise InvalidRequest(f"{what}: {name!r} cannot be a user's name")
    if sudo and sudo[0] not in ("true", "false", ""):
        raise InvalidRequest(f"{what}: {sudo[0]!r} is neither `true` nor `false`")
    return User(name, sudo=sudo == ["true"])


def _between(args: Sequence[str], least: int, most: int, what: str, takes: str) -> Sequence[str]:
    if not least <= len(args) <= most:
        raise InvalidRequest(f"{what} takes {takes}, not {len(args)} arguments")
    return args


def _present(value: str, what: str, name: str) -> str:
    if not value:
        raise InvalidRequest(f"{what}: the {name} is empty")
    return value
