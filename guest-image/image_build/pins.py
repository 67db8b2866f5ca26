"""The pins: `versions.toml` says what is wanted, the lock files say exactly which bytes.

A lock of Debian packages has one line `name=version sha256` a package. A lock of wheels is a pip requirements file with
hashes, because pip checks those itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from image_build.errors import MalformedPin

_LINE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)=(?P<version>\S+) (?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Deb:
    """One Debian package, exactly."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The part of the boot contract that whoever starts the guest needs. It goes into the manifest as it is."""

    cmdline: str
    cmdline_tcg: str
    cpu_tcg: str
    cpu_kvm: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """`versions.toml`: names chosen by people, from which `build.py lock` makes the lock files."""

    kernel_packages: tuple[str, ...]
    agent_packages: tuple[str, ...]
    base_packages: tuple[str, ...]
    code_interpreter_packages: tuple[str, ...]
    test_packages: tuple[str, ...]
    machine: Machine


def read_versions(text: str) -> Wanted:
    versions = tomllib.loads(text)
    return Wanted(
        kernel_packages=tuple(versions["kernel"]["packages"]),
        agent_packages=tuple(versions["agent"]["packages"]),
        base_packages=tuple(versions["images"]["base"]["packages"]),
        code_interpreter_packages=tuple(versions["images"]["code-interpreter-v1"]["packages"]),
        test_packages=tuple(versions["tests"]["packages"]),
        machine=Machine(**versions["machine"]),
    )


def read_debs(path: Path) -> tuple[Deb, ...]:
    return parse_debs(path.read_text(), source=path.name)


def parse_debs(text: str, *, source: str) -> tuple[Deb, ...]:
    debs = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise MalformedPin(source, line)
        debs.append(Deb(match["name"], match["version"], match["sha256"]))
    return tuple(debs)


def format_debs(debs: Iterable[Deb]) -> str:
    head = "# Made by `guest-image/build.py lock` from versions.toml. One Debian package a line: name=version sha256\n"
    return head + "".join(f"{deb.name}={deb.version} {deb.sha256}\n" for deb in sorted(debs))
