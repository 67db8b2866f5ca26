# ruff: noqa: ASYNC221 - short-lived tools, and nothing else runs on the loop meanwhile.
"""Whole imports with the real tools, read back by tools that did not write them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.domain.errors import DiskFull, ImageRejected, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage import squash
from appliance.storage.base import ImageLimits, Layer
from appliance.storage.layers import LocalImageStore
from appliance.storage.pull_network import Reach
from tests.support.hostile_layers import HOSTILE, Hostile
from tests.support.oci_images import E, tar_bytes, write_docker_archive, write_layout
from tests.support.tiny_registry import TinyRegistry, serving

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep, as the kernel stores it."""

LOWER = tar_bytes(
    [
        E("./", "d"),
        E("usr/bin/tool", data=b"#!" + b"x" * 300_000, mode=0o4755, uid=3_000_000_000),
        E("usr/bin/same", "h", link="usr/bin/tool"),
        E("usr/bin/cap", data=b"c", pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin1")}),
        E("bin", "l", link="usr/bin"),
        E("etc/gone", data=b"1"),
        E("tmp", "d", mode=0o1777),
    ]
)
UPPER = tar_bytes([E("etc/.wh.gone"), E("etc/new", data=b"n"), E("run/pipe", "p"), E("usr/share/é", data=b"u")])


@pytest.fixture
def store(tmp_path: Path) -> LocalImageStore:
    return LocalImageStore(tmp_path / "layers")


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = _descriptors(), _children()
    yield
    assert (_descriptors(), _children()) == before


def _descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is compared


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def listing(layer: Layer) -> dict[str, str]:
    """Return type and mode, owner and size by name, as unsquashfs prints them."""
    out = subprocess.run(
        ["unsquashfs", "-lln", str(layer.path)],
        check=True,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    ).stdout
    found = {}
    for line in out.splitlines():
        mode, owner, size, _, _, name = line.split(maxsplit=5)
        found[name.removeprefix("squashfs-root").lstrip("/")] = f"{mode} {owner} {size}"
    return found


async def test_a_layer_reads_back_as_the_image_says(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [LOWER, UPPER])
    (layer,) = (await store.import_image(f"oci:{tmp_path / 'image'}")).layers
    seen = listing(layer)
    assert set(seen) == {
        "", "bin -> usr/bin", "etc", "etc/new", "run", "run/pipe", "tmp", "usr", "usr/bin", "usr/bin/cap",
        "usr/bin/same", "usr/bin/tool", "usr/share", "usr/share/é",
    }  # fmt: skip
    assert seen["usr/bin/tool"] == seen["usr/bin/same"] == "-rwsr-xr-x 3000000000/3000000000 300002"
    assert seen["tmp"].startswith("drwxrwxrwt 0/0")
    assert seen["run/pipe"].startswith("prw-r--r-- 0/0")
    assert seen[""].startswith("drwxr-xr-x")
    xattrs = subprocess.run(["rdsquashfs", "-x", "usr/bin/cap", layer.path], check=True, capture_output=True).stdout
    assert xattrs.decode().strip() == f"security.capability=0x{CAPABILITY.hex()}"
    content = subprocess.run(["unsquashfs", "-cat", layer.path, "usr/bin/same"], check=True, capture_output=True).stdout
    assert content == b"#!" + b"x" * 300_000
    assert layer.path.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("compression", ["", "+gzip", "+zstd"])
async def test_the_digest_depends_on_neither_compression_nor_time(
    tmp_path: Path, store: LocalImageStore, compression: str
) -> None:
    write_layout(tmp_path / "plain", [LOWER, UPPER], compression="")
    write_layout(tmp_path / "packed", [LOWER, UPPER], compression=compression)
    first = await store.import_image(f"oci:{tmp_path / 'plain'}")
    # The clock shows in a squashfs by the second, if it shows.
    await asyncio.sleep(1.05)
    assert (await store.import_image(f"oci:{tmp_path / 'packed'}")).layers == first.layers


async def test_an_index_of_several_platforms_leads_to_ours(tmp_path: Path, store: LocalImageStore) -> None:
    digest = write_layout(tmp_path / "image", [LOWER], nested=True)
    assert (await store.import_image(f"oci:{tmp_path / 'image'}")).source_digest == digest


async def test_names_that_need_too_much_memory_are_refused(
    tmp_path: Path, store: LocalImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squash, "_MERGE_ADDRESS_SPACE_BYTES", 192 * 2**20)
    attributes = {f"SCHILY.xattr.user.{n}": "v" * 65536 for n in range(15)}
    layer = tar_bytes([E(f"d{n}", "d", pax=attributes) for n in range(200)])
    write_layout(tmp_path / "image", [layer], compression="")
    with pytest.raises(ImageRejected) as raised:
        await store.import_image(f"oci:{tmp_path / 'image'}")
    assert raised.value.rule == "memory"


async def test_a_layout_with_several_images_needs_a_name(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [LOWER], name="v1")
    assert (await store.import_image(f"oci:{tmp_path / 'image'}:v1")).layers
    with pytest.raises(StorageFailure, match="named 'v2'"):
        await store.import_image(f"oci:{tmp_path / 'image'}:v2")


async def test_docker_archives_are_read_in_place(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [LOWER, UPPER, UPPER])
    write_docker_archive(tmp_path / "image.tar", [LOWER, UPPER, UPPER], name="demo:1")
    from_layout = await store.import_image(f"oci:{tmp_path / 'image'}")
    from_archive = await store.import_image(f"docker-archive:{tmp_path / 'image.tar'}:demo:1")
    assert from_archive.layers == from_layout.layers
    assert from_archive.config.cmd == ("/bin/demo",)
    with pytest.raises(StorageFailure, match="named 'other:1'"):
        await store.import_image(f"docker-archive:{tmp_path / 'image.tar'}:other:1")


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_a_hostile_image_is_refused_and_leaves_nothing(
    tmp_path: Path, store: LocalImageStore, hostile: Hostile
) -> None:
    write_layout(tmp_path / "image", hostile.layers, stored=hostile.stored)
    with pytest.raises(ImageRejected) as raised:
        await store.import_image(f"oci:{tmp_path / 'image'}", limits=hostile.limits)
    assert raised.value.rule == hostile.rule
    assert list((tmp_path / "layers").iterdir()) == []


@pytest.mark.parametrize(
    ("rule", "overrides"),
    [
        ("platform", {"architecture": "arm64"}),
        ("bad-config", {"rootfs": {"diff_ids": []}}),
        ("bad-digest", {"rootfs": {"diff_ids": ["sha256:../../etc/passwd"]}}),
        ("bad-json", {"rootfs": []}),
        ("bad-config", {"config": {"Cmd": "a string"}}),
    ],
)
async def test_a_config_that_makes_no_sense_is_refused(
    tmp_path: Path, store: LocalImageStore, rule: str, overrides: dict[str, object]
) -> None:
    write_layout(tmp_path / "image", [LOWER], overrides=overrides)
    with pytest.raises(ImageRejected) as raised:
        await store.import_image(f"oci:{tmp_path / 'image'}")
    assert raised.value.rule == rule


async def test_a_blob_that_is_not_what_it_is_called_is_refused(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [LOWER], compression="")
    largest = max((tmp_path / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ImageRejected) as raised:
        await store.import_image(f"oci:{tmp_path / 'image'}")
    assert raised.value.rule == "digest-mismatch"


async def test_a_layout_does_not_lead_to_other_files(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [LOWER], compression="")
    largest = max((tmp_path / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    shutil.move(largest, tmp_path / "elsewhere")
    largest.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailure):
        await store.import_image(f"oci:{tmp_path / 'image'}")


async def test_an_image_that_takes_too_long_is_refused(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=bytes(60 * 2**20))])])
    with pytest.raises(ImageRejected) as raised:
        await store.import_image(f"oci:{tmp_path / 'image'}", limits=ImageLimits(duration=timedelta(milliseconds=50)))
    assert raised.value.rule == "duration"
    assert list((tmp_path / "layers").iterdir()) == []


async def test_a_cancelled_import_leaves_nothing(tmp_path: Path, store: LocalImageStore) -> None:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=os.urandom(20 * 2**20))])])
    said, others = asyncio.Event(), _children()
    task = asyncio.create_task(store.import_image(f"oci:{tmp_path / 'image'}", progress=lambda _: said.set()))
    async with asyncio.timeout(10):
        await said.wait()
        while _children() == others:  # noqa: ASYNC110 - the kernel gives no event for it
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "layers").iterdir()) == []


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.root
@pytest.mark.parametrize("reserve", [True, False])
async def test_a_full_disk_is_said_to_be_full_and_is_empty_again(
    tmp_path: Path, small_filesystem: Path, reserve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=os.urandom(12 * 2**20))])])
    store = LocalImageStore(small_filesystem)
    if not reserve:  # Then it is the filesystem that refuses, not the ceiling of the packer.
        monkeypatch.setattr(store, "_room_bytes", lambda: 2**40)
    with pytest.raises(DiskFull):
        await store.import_image(f"oci:{tmp_path / 'image'}")
    status = os.statvfs(small_filesystem)
    assert status.f_bfree == status.f_blocks
    write_layout(tmp_path / "small_image", [tar_bytes([E("f", data=os.urandom(2**20))])])
    assert (await store.import_image(f"oci:{tmp_path / 'small_image'}")).layers


def store_of(registry: TinyRegistry, directory: Path) -> LocalImageStore:
    hosts = frozenset({registry.host})
    return LocalImageStore(directory / "layers", insecure_registries=hosts, reach=Reach(internal=hosts))


@pytest.mark.parametrize("nested", [False, True])
async def test_images_are_pulled_with_the_credentials_of_the_call(
    tmp_path: Path, searchable_path: Path, nested: bool
) -> None:
    digest = write_layout(tmp_path / "image", [LOWER, UPPER], nested=nested)
    with serving(tmp_path / "image", username="robot", password="s3cret") as registry:
        store = store_of(registry, searchable_path)
        reference = f"{registry.host}/team/demo:1"
        image = await store.import_image(reference, login=RegistryLogin("robot", "s3cret"))
        assert image.source_digest == digest
        served = len(registry.served)
        with pytest.raises(StorageFailure, match="cannot pull") as raised:
            await store.import_image(reference, login=RegistryLogin("robot", "wr0ng"))
        assert "wr0ng" not in str(raised.value)
        with pytest.raises(StorageFailure, match="cannot pull"):
            await store.import_image(reference)
        assert len(registry.served) == served
    from_layout = await LocalImageStore(tmp_path / "others").import_image(f"oci:{tmp_path / 'image'}")
    assert [layer.digest for layer in image.layers] == [layer.digest for layer in from_layout.layers]
    assert [path.name for path in (searchable_path / "layers").iterdir()] == [layer.path.name for layer in image.layers]


async def test_an_image_that_states_too_much_is_not_downloaded(tmp_path: Path, searchable_path: Path) -> None:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=os.urandom(2**20))])])
    with serving(tmp_path / "image", username="u", password="p") as registry:
        store = store_of(registry, searchable_path)
        with pytest.raises(ImageRejected) as raised:
            await store.import_image(
                f"{registry.host}/demo:1",
                login=RegistryLogin("u", "p"),
                limits=ImageLimits(unpacked_bytes=2**20),
            )
        assert raised.value.rule == "unpacked-size"
        assert not any("/blobs/" in path for path in registry.served)


async def test_a_registry_must_speak_tls_unless_it_is_named(tmp_path: Path, searchable_path: Path) -> None:
    write_layout(tmp_path / "image", [LOWER])
    with serving(tmp_path / "image", username="u", password="p") as registry:
        reach = Reach(internal=frozenset({registry.host}))
        store = LocalImageStore(searchable_path / "layers", reach=reach)
        with pytest.raises(StorageFailure, match="TLS handshake"):
            await store.import_image(f"{registry.host}/demo", login=RegistryLogin("u", "p"))
        assert list((searchable_path / "layers").iterdir()) == []
        assert registry.served == []


async def test_what_a_killed_pull_left_is_removed_by_the_next_process(searchable_path: Path) -> None:
    reach = Reach(internal=frozenset({"127.0.0.1:1"}))
    store = LocalImageStore(searchable_path / "layers", reach=reach)
    leftover = searchable_path / "layers" / ".pull-abc" / "layout"
    leftover.mkdir(parents=True)
    with pytest.raises(StorageFailure):
        await store.import_image("127.0.0.1:1/nobody/listens")
    assert list((searchable_path / "layers").iterdir()) == []
