from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from image_build import layer_tar
from image_build.commands import SOURCE_DATE_EPOCH
from image_build.errors import UncleanImage


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {info.name: info for info in archive}


def test_a_layer_holds_only_what_was_added(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/local").mkdir(parents=True)
    (root / "usr/old").write_text("there before")
    (root / "usr/local/new").write_text("added")
    (root / "usr/local/link").symlink_to("new")
    layer = tmp_path / "layer.tar"
    names = layer_tar.pack_added(root, layer, present=frozenset({"usr", "usr/old"}), image="test")
    assert names == {"usr/local", "usr/local/new", "usr/local/link"} == set(members(layer))
    assert members(layer)["usr/local/link"].linkname == "new"


def test_the_same_tree_gives_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/b").write_text("2")
    (root / "etc/a").write_text("1")
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    layer_tar.pack_added(root, first, present=frozenset(), image="test")
    os.utime(root / "etc/a", (SOURCE_DATE_EPOCH + 5, SOURCE_DATE_EPOCH + 5))
    layer_tar.pack_added(root, second, present=frozenset(), image="test")
    assert first.read_bytes() == second.read_bytes()


def test_a_layer_has_no_devices_no_build_times_and_keeps_attributes(tmp_path: Path) -> None:
    raw, layer = tmp_path / "raw.tar", tmp_path / "layer.tar"
    with tarfile.open(raw, "w", format=tarfile.PAX_FORMAT) as archive:
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
        program = tarfile.TarInfo("./bin/ping")
        program.mtime, program.uname, program.mode, program.size = 4_000_000_000, "builder", 0o4755, 2
        program.pax_headers = {"SCHILY.xattr.security.capability": "cap", "atime": "4000000000.5"}
        archive.addfile(program, io.BytesIO(b"hi"))
        other = tarfile.TarInfo("./bin/ping6")
        other.type, other.linkname = tarfile.LNKTYPE, "./bin/ping"
        archive.addfile(other)
    assert layer_tar.normalise(raw, layer, image="test") == {"bin/ping", "bin/ping6"}
    ping = members(layer)["bin/ping"]
    assert (ping.mtime, ping.uname, ping.mode) == (SOURCE_DATE_EPOCH, "", 0o4755)
    assert ping.pax_headers == {"SCHILY.xattr.security.capability": "cap"}
    assert members(layer)["bin/ping6"].linkname == "bin/ping"


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("etc/ssh/ssh_host_ed25519_key", b"", "must not be there"),
        ("etc/resolv.conf", b"nameserver 192.0.2.1", "must not be there"),
        ("var/lib/apt/lists/a_mirror_Packages", b"", "must not be there"),
        ("home/user/.cache/pip/http/1", b"", "must not be there"),
        ("root/.ssh/id_ed25519", b"", "must not be there"),
        ("var/log/dpkg.log", b"", "must not be there"),
        ("etc/machine-id", b"5f2e1c\n", "must be empty"),
        ("etc/shadow", b"root:*:1:0\nuser:$y$j9T$x:1:0\n", "password for user"),
        ("etc/shadow", b"root::1:0\n", "password for root"),
        ("opt/server.key", b"-----BEGIN RSA PRIVATE KEY-----\n", "private key"),
    ],
)
def test_what_no_image_may_hold_is_found(name: str, content: bytes, finding: str, tmp_path: Path) -> None:
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    layer = tmp_path / "layer.tar"
    with pytest.raises(UncleanImage, match=finding):
        layer_tar.pack_added(tmp_path / "root", layer, present=frozenset(), image="test")
    assert not layer.exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("etc/machine-id", b""),
        ("etc/shadow", b"root:*:1:0\nuser:!:1:0\n"),
        ("etc/ssl/certs/ca-certificates.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("var/lib/apt/lists/lock", b""),
        ("home/user/.bashrc", b"alias ls=ls"),
    ],
)
def test_what_an_image_needs_is_let_through(name: str, content: bytes) -> None:
    assert layer_tar.violations(name, lambda: content) == []
