from __future__ import annotations

from pathlib import Path

import pytest

from image_build import commands
from image_build.apt import PackageCache
from image_build.errors import HashMismatch, PinVanished, ToolFailed
from image_build.hashing import sha256_file
from image_build.pins import Deb

CONTENT = b"a package"


class Mirror:
    """Stands where `apt-get download` would run: puts files into its directory, or refuses as apt does."""

    def __init__(self, files: dict[str, bytes], refusal: str | None = None) -> None:
        self.files = files
        self.refusal = refusal
        self.asked: list[str] = []

    def run(self, argv: list[str], *, cwd: Path) -> str:
        self.asked += [word for word in argv if "=" in word and not word.startswith("-o")]
        if self.refusal is not None:
            raise ToolFailed(argv, 100, self.refusal)
        for name, content in self.files.items():
            (cwd / name).write_bytes(content)
        return ""


@pytest.fixture
def sha256(tmp_path: Path) -> str:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return sha256_file(path)


def test_a_package_is_fetched_once_and_kept_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    mirror = Mirror({"zlib1g_1%3a1.2_amd64.deb": CONTENT})
    monkeypatch.setattr(commands, "run", mirror.run)
    cache = PackageCache(tmp_path / "cache")
    deb = Deb("zlib1g", "1:1.2", sha256)
    assert cache.fetch([deb]) == cache.fetch([deb]) == (cache.path(deb),)
    assert cache.path(deb).read_bytes() == CONTENT
    assert mirror.asked == ["zlib1g=1:1.2"]


def test_other_bytes_under_the_pinned_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", Mirror({"libc6_2.36_amd64.deb": b"other"}).run)
    with pytest.raises(HashMismatch, match=r"libc6 2\.36 has sha256 .* is pinned"):
        PackageCache(tmp_path).fetch([Deb("libc6", "2.36", "0" * 64)])


def test_a_version_that_has_vanished_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "E: Version '2.36-9' for 'libc6' was not found"
    monkeypatch.setattr(commands, "run", Mirror({}, refusal).run)
    wanted = [Deb("bash", "5.2", "1" * 64), Deb("libc6", "2.36-9", "0" * 64)]
    with pytest.raises(PinVanished, match=r"libc6 2\.36-9 is pinned") as caught:
        PackageCache(tmp_path).fetch(wanted)
    assert "build.py lock" in str(caught.value)
