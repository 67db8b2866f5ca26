"""Steps of E2B's template builder: which there are, and what each needs. Nodes run them; this decides what is one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from appliance.domain.errors import InvalidRequest
from appliance.domain.registry_login import RegistryLogin

FILES_HASH = re.compile(r"[0-9a-f]{64}")
"""Not of the archive: what the client calls the files of a COPY."""

_MAX_STEPS = 1000
_MAX_CHARACTERS = 2**20
"""Of all arguments together: a step may carry a script, but not a program."""
_MAX_STEP_BYTES = 100 * 1024
"""Of one step: below what Linux takes as one argument of a program, 128 KiB."""
_MODE = re.compile(r"[0-7]{3,5}")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_OWNER = re.compile(r"[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?")


class StepType(StrEnum):
    RUN = "RUN"
    COPY = "COPY"
    ENV = "ENV"
    WORKDIR = "WORKDIR"
    USER = "USER"


@dataclass(frozen=True, slots=True)
class BuildStep:
    type: StepType
    args: tuple[str, ...]
    files_hash: str | None = None
    """The files of a COPY, by the client's name for them."""
    force: bool = False
    """Run this step and all after it anew."""


@dataclass(frozen=True, slots=True)
class BuildSource:
    """What a client wants a draft made from: an image of a registry or a template, and what is done to it."""

    image: str | None
    template: str | None
    registry_login: RegistryLogin | None
    steps: tuple[BuildStep, ...]
    force: bool
    start_cmd: str | None
    ready_cmd: str | None


_ARGUMENTS = {
    StepType.RUN: (range(1, 3), "a command, and optionally a user"),
    StepType.COPY: (range(2, 5), "a source and a destination, and optionally a user and a mode"),
    StepType.ENV: (range(2, _MAX_CHARACTERS, 2), "pairs of a name and a value"),
    StepType.WORKDIR: (range(1, 2), "a path"),
    StepType.USER: (range(1, 3), "a name, and optionally whether it may use sudo"),
}


def parse_step(number: int, kind: str, args: Sequence[str], *, files_hash: str | None, force: bool) -> BuildStep:
    """Return the step that a client asked for as its `number`th, or raise InvalidRequest that names it."""
    where = step_name(number, kind)
    if kind not in set(StepType):
        raise InvalidRequest(f"{where} is of no type that there is: use {', '.join(StepType)}")
    step = BuildStep(StepType(kind), tuple(args), files_hash=files_hash, force=force)
    counts, meaning = _ARGUMENTS[step.type]
    if len(step.args) not in counts:
        raise InvalidRequest(f"{where} has {len(step.args)} arguments: it takes {meaning}")
    if any("\0" in arg for arg in step.args):
        raise InvalidRequest(f"{where} has a NUL character in an argument")
    if sum(len(arg.encode(errors="replace")) for arg in step.args) > _MAX_STEP_BYTES:
        raise InvalidRequest(f"{where} has more than {_MAX_STEP_BYTES} bytes of arguments: copy them in as a file")
    if (step.type is StepType.COPY) != (files_hash is not None):
        raise InvalidRequest(f"{where} must {'' if step.type is StepType.COPY else 'not '}have a filesHash")
    if files_hash is not None and not FILES_HASH.fullmatch(files_hash):
        raise InvalidRequest(f"{where}: Invalid files hash: it has 64 hex digits in lower case")
    problem = _problem(step)
    if problem is not None:
        raise InvalidRequest(f"{where}: {problem}")
    return step


def refuse_too_much(steps: Sequence[BuildStep]) -> None:
    """Raise InvalidRequest for more steps, or longer ones, than a build may have."""
    if len(steps) > _MAX_STEPS:
        raise InvalidRequest(f"{len(steps)} steps are too many: a build has at most {_MAX_STEPS}")
    characters = sum(len(arg) for step in steps for arg in step.args)
    if characters > _MAX_CHARACTERS:
        raise InvalidRequest(
            f"the steps' arguments have {characters} characters, at most {_MAX_CHARACTERS} are taken: "
            "copy large content in as a file"
        )


def step_name(number: int, kind: str) -> str:
    """Return how messages call a step: clients number them from 1."""
    return f"step {number} ({kind[:16]})"


def leads_out(source: str) -> bool:
    """Tell whether a COPY's source may lie outside of what is uploaded.

    `a/../b` does as well: where `a` is a link, it is not the `b` beside it.
    """
    return source.startswith("/") or ".." in source.split("/")


def _problem(step: BuildStep) -> str | None:
    """Return what is wrong with the arguments, which are as many as they must be."""
    first, *rest = step.args
    match step.type:
        case StepType.ENV:
            valid = all(name and "=" not in name for name in step.args[::2])
            return None if valid else "the name of a variable is empty or holds '='"
        case StepType.COPY:
            return _problem_of_copy(first, *rest)
        case StepType.USER if not _ACCOUNT.fullmatch(first):
            return f"{first[:32]!r} cannot be a user's name"
        case StepType.USER if rest and rest[0] not in ("true", "false", ""):
            return "its second argument, whether the user may use sudo, is neither 'true' nor 'false'"
        case StepType.RUN | StepType.WORKDIR if not first.strip():
            return "its first argument must not be empty"
    return None


def _problem_of_copy(source: str, destination: str, owner: str = "", mode: str = "") -> str | None:
    if not source or not destination:
        return "source and destination must not be empty"
    if leads_out(source):
        return (
            f"source {source[:64]!r} does not lie within the files that are uploaded: "
            "write it as a relative path without '..'"
        )
    if owner and not _OWNER.fullmatch(owner):
        return f"owner {owner[:64]!r} is not user or user:group"
    if mode and not _MODE.fullmatch(mode):
        return f"mode {mode[:16]!r} is not octal, such as 0755"
    return None
