"""Debian packages and all they depend on, as a flat apt repository.

apt itself resolves and authenticates, in a state of its own in which nothing is installed: the closure is
whole on any machine that has Debian's essential packages.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle import mirror
from bundle.stage import Outcome, Stamp, Workplace, keep_only, link, run

_URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+\.deb) \d+")
"""A line of `apt-get --print-uris`: the address in quotes, the file's name in the archive directory, its size."""


def build(place: Workplace) -> Outcome:
    """Fill `debian/`."""
    listing = place.source / "bundle" / "packages.toml"
    wanted = tomllib.loads(listing.read_text())
    target = place.directory("debian")
    stamp = Stamp.of(place, "debian", [listing.read_bytes(), Path(__file__).read_bytes()])
    if stamp.holds() and not place.refresh:
        return Outcome(f"{len(list(target.glob('*.deb')))} packages, as before", kept=True)

    apt = place.cache / "apt"
    _write_configuration(apt, wanted["archive"])
    options = _options(apt, wanted["archive"]["architecture"])
    packages = sorted({name for names in wanted["packages"].values() for name in names})
    install = ["install", "--yes", "--no-install-recommends", *packages]
    run(["apt-get", *options, "--quiet", "--quiet", "update"])
    files = files_to_fetch(run(["apt-get", *options, "--print-uris", "-o", f"Dir::Cache={apt / 'none'}", *install]))
    run(["apt-get", *options, "--quiet", "--download-only", *install])

    debs = [target / name for name in files]
    for deb in debs:
        link(apt / "cache" / "archives" / deb.name, deb)
    keep_only(target, debs)
    (target / "Packages").write_text(run(["dpkg-scanpackages", "--multiversion", "."], cwd=target))
    stamp.set()
    return Outcome(f"{len(debs)} packages")


def files_to_fetch(uris: str) -> Sequence[str]:
    """The file names in the output of `apt-get --print-uris install`."""
    return [match["file"] for line in uris.splitlines() if (match := _URI_LINE.match(line))]


def _write_configuration(apt: Path, archive: Mapping[str, Any]) -> None:
    """Make apt's directories: sources and preferences of ours, and a record of nothing being installed."""
    for name in ("state/lists/partial", "cache/archives/partial", "none/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "state" / "status").touch()
    release, signed = archive["release"], f"[signed-by={archive['keyring']} arch={archive['architecture']}]"
    (apt / "sources.list").write_text(
        "".join(f"deb {signed} {uri} {suite} main\n" for suite, uri in mirror.uris(release).items())
    )
    (apt / "preferences").write_text(
        f"Package: {' '.join(archive['backports'])}\nPin: release n={release}-backports\nPin-Priority: 990\n"
    )


def _options(apt: Path, architecture: str) -> Sequence[str]:
    settings = {
        "APT::Architecture": architecture,
        "APT::Sandbox::User": "root",  # the cache may lie in a home directory that user _apt cannot enter
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state" / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": apt / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
