"""The pins: `versions.toml` says what is wanted, the lock files say exactly which bytes.

A lock of Debian packages has one line `name=version sha256` a package. A lock of wheels is a pip requirements file with
hashes, because pip checks those itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
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
class Unpacked:
    """Packages that are unpacked and not installed, and what makes up for that. Paths are below the root."""

    packages: tuple[str, ...]
    without: tuple[str, ...]
    """Patterns of files to leave out."""
    links: Mapping[str, str]
    """Symbolic links to make: what the scripts of packages would choose among alternatives."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`versions.toml`: names chosen by people, from which `build.py lock` makes the lock files."""

    kernel_packages: tuple[str, ...]
    agent_packages: tuple[str, ...]
    base_packages: tuple[str, ...]
    code_interpreter: Unpacked
    test_packages: tuple[str, ...]
    machine: Machine


def read_versions(text: str) -> Wanted:
    versions = tomllib.loads(text)
    interpreter = versions["images"]["code-interpreter-v1"]
    return Wanted(
        kernel_packages=tuple(versions["kernel"]["packages"]),
        agent_packages=tuple(versions["agent"]["packages"]),
        base_packages=tuple(versions["images"]["base"]["packages"]),
        code_interpreter=Unpacked(
            packages=tuple(interpreter["packages"]),
            without=tuple(interpreter["without"]),
            links=interpreter["links"],
        ),
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
