"""Debian packages, through this machine's apt: resolved for a lock, or fetched exactly as locked.

apt is given an empty machine to resolve for and may take packages of Debian 12 and its security updates only, whatever
else this machine's apt knows: the guest is the same wherever it is built.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from image_build import commands
from image_build.errors import HashMismatch, PinVanished, ToolFailed
from image_build.hashing import sha256_file
from image_build.pins import Deb

_SUITES = ("bookworm", "bookworm-security", "bookworm-updates")
_UNPACK = 'dpkg-deb --fsys-tarfile "$1" | tar --extract --keep-directory-symlink --same-permissions --directory "$2"'
_URI_LINE = re.compile(r"'[^']+' (?P<file>\S+) ")


class PackageCache:
    """Packages on disk, each named by its SHA-256."""

    def __init__(self, cache: Path) -> None:
        self._directory = cache / "debs"
        self._directory.mkdir(parents=True, exist_ok=True)

    def path(self, deb: Deb) -> Path:
        return self._directory / f"{deb.sha256}.deb"

    def fetch(self, debs: Iterable[Deb]) -> tuple[Path, ...]:
        """Return the paths of `debs`, in order, after downloading those that are missing."""
        wanted = tuple(debs)
        missing = [deb for deb in wanted if not self.path(deb).exists()]
        if missing:
            self._download(missing)
        return tuple(self.path(deb) for deb in wanted)

    def lock(self, packages: Iterable[str], *, closure: bool) -> tuple[Deb, ...]:
        """Return what `packages` are now: they alone, or with all that they need on an empty machine."""
        with _isolated_apt() as apt:
            verb = ["install", "--yes"] if closure else ["download"]
            listed = commands.run([*apt, *verb, "--print-uris", "-qq", *packages])
            names = [_name_and_version(match["file"]) for match in _URI_LINE.finditer(listed)]
            with self._landing() as landing:
                commands.run([*apt, "download", "-qq", *(f"{name}={version}" for name, version in names)], cwd=landing)
                return tuple(sorted(self._keep(path) for path in landing.glob("*.deb")))

    def _download(self, debs: list[Deb]) -> None:
        with _isolated_apt() as apt, self._landing() as landing:
            try:
                commands.run([*apt, "download", "-qq", *(f"{deb.name}={deb.version}" for deb in debs)], cwd=landing)
            except ToolFailed as error:
                culprit = next((deb for deb in debs if f"'{deb.name}'" in str(error)), debs[0])
                raise PinVanished(culprit.name, culprit.version, str(error)) from error
            for deb in debs:
                (path,) = landing.glob(f"{deb.name}_*.deb")
                actual = self._keep(path).sha256
                if actual != deb.sha256:
                    raise HashMismatch(f"{deb.name} {deb.version}", expected=deb.sha256, actual=actual)

    def _keep(self, path: Path) -> Deb:
        name, version = _name_and_version(path.name)
        deb = Deb(name, version, sha256_file(path))
        path.replace(self.path(deb))
        return deb

    @contextmanager
    def _landing(self) -> Iterator[Path]:
        """A directory on the cache's own file system, so that a finished download is renamed into place."""
        with tempfile.TemporaryDirectory(dir=self._directory) as landing:
            yield Path(landing)


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpack the files of `packages` into `root`. None of their scripts is run.

    Packages have files in /lib and /bin, which are links in a root with a merged /usr and must stay so: `dpkg-deb
    --extract` would make directories of them.
    """
    root.mkdir(parents=True, exist_ok=True)
    for package in packages:
        commands.run(["bash", "-o", "pipefail", "-c", _UNPACK, "unpack", package, root])


def _name_and_version(file_name: str) -> tuple[str, str]:
    """`zlib1g_1%3a1.2.13.dfsg-1_amd64.deb` -> `zlib1g`, `1:1.2.13.dfsg-1`."""
    name, version, _ = file_name.split("_")
    return name, unquote(version)


@contextmanager
def _isolated_apt() -> Iterator[list[str]]:
    """Yield an `apt-get` with this machine's sources, but no installed package and no other suite."""
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch)
        (state / "status").touch()
        (state / "cache").mkdir()
        (state / "no-more-preferences").mkdir()
        (state / "preferences").write_text(_preferences())
        options = {
            "Dir::State::status": state / "status",
            "Dir::State::extended_states": state / "extended_states",
            "Dir::Etc::Preferences": state / "preferences",
            "Dir::Etc::PreferencesParts": state / "no-more-preferences",
            "Dir::Cache": state / "cache",
            "Debug::NoLocking": "1",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
        }
        yield ["apt-get", *(f"-o{name}={value}" for name, value in options.items())]


def _preferences() -> str:
    allowed = [f"Package: *\nPin: release o=Debian,n={suite}\nPin-Priority: 500\n" for suite in _SUITES]
    return "\n".join([*allowed, "Package: *\nPin: release *\nPin-Priority: -1\n"])
