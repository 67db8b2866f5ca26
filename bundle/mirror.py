"""The package mirrors that this host's own apt uses: the bundle is made from the same ones."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


class NoMirrorError(Exception):
    """This host's apt has no source for a suite. `str()` says what to do."""


def uris(release: str) -> Mapping[str, str]:
    """The address of each suite of `release`, by code name: itself, -updates, -backports and -security."""
    found = by_suite(_index_targets())
    if release not in found:
        # Lists are absent on a host whose apt was never updated, or was cleaned.
        subprocess.run(["apt-get", "--quiet", "--quiet", "update"], check=True)
        found = by_suite(_index_targets())
    if release not in found:
        raise NoMirrorError(f"this host's apt has no source for Debian {release}: add one to /etc/apt/sources.list.d")
    # Mirrors that carry a release carry what is published beside it. Security updates come from elsewhere.
    besides = {f"{release}-{suite}": found[release] for suite in ("updates", "backports")}
    suites = {**besides, **{suite: uri for suite, uri in found.items() if suite.startswith(release)}}
    if f"{release}-security" not in suites:
        raise NoMirrorError(f"this host's apt has no source for {release}-security: add it to /etc/apt/sources.list.d")
    return suites


def by_suite(targets: str) -> Mapping[str, str]:
    """Code names and addresses in what `_index_targets` printed."""
    pairs = (line.partition(" ") for line in targets.splitlines() if line.strip())
    return {codename: uri for codename, _, uri in pairs}


def _index_targets() -> str:
    argv = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Identifier: Packages", "Component: main"]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
