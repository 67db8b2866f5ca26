"""What `storage/base.py` promises, asked of the fake and of the real stores alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.domain.errors import ImageRejected, InvalidRequest, StorageFailure
from appliance.storage.base import DiskStore, ImageConfig, ImageLimits, ImageStore
from appliance.storage.disks import LocalDiskStore
from appliance.storage.fake import FakeDiskStore, FakeImageStore
from appliance.storage.layers import LocalImageStore
from tests.support.oci_images import E, tar_bytes, write_layout

CONFIG = ImageConfig(
    entrypoint=("/bin/demo",), cmd=("--serve",), env=("A=1", "B=x=y"), working_dir="/srv", user="1000:1000"
)


@dataclass(frozen=True)
class Images:
    """A store, and how a test gives it images."""

    store: ImageStore
    directory: Path
    add: Callable[[str, bytes], str]
    """Make an image of that name and content; return its reference."""
    add_hostile: Callable[[str], str]
    """Make an image that breaks the rule `device-node`."""

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []


def _real_images(tmp_path: Path) -> Images:
    def add(name: str, content: bytes) -> str:
        config = {
            "Entrypoint": list(CONFIG.entrypoint),
            "Cmd": list(CONFIG.cmd),
            "Env": list(CONFIG.env),
            "WorkingDir": CONFIG.working_dir,
            "User": CONFIG.user,
        }
        write_layout(tmp_path / "images" / name, [tar_bytes([E("f", data=content)])], config=config)
        return f"oci:{tmp_path / 'images' / name}"

    def add_hostile(name: str) -> str:
        write_layout(tmp_path / "images" / name, [tar_bytes([E("dev/mem", "c")])])
        return f"oci:{tmp_path / 'images' / name}"

    return Images(LocalImageStore(tmp_path / "layers"), tmp_path / "layers", add, add_hostile)


def _fake_images(tmp_path: Path) -> Images:
    store = FakeImageStore(tmp_path / "layers")

    def add(name: str, content: bytes) -> str:
        store.add(f"oci:/images/{name}", content=content, config=CONFIG)
        return f"oci:/images/{name}"

    def add_hostile(name: str) -> str:
        store.add(f"oci:/images/{name}", breaks_rule="device-node")
        return f"oci:/images/{name}"

    return Images(store, tmp_path / "layers", add, add_hostile)


@pytest.fixture(params=[_fake_images, _real_images], ids=["fake", "real"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    made = request.param(tmp_path)
    assert isinstance(made, Images)
    return made


async def test_a_layer_is_named_by_its_content(images: Images) -> None:
    image = await images.store.import_image(images.add("demo", b"1"))
    (layer,) = image.layers
    content = await asyncio.to_thread(layer.path.read_bytes)
    assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert layer.size_bytes == len(content)
    assert await images.store.layers() == image.layers


async def test_the_config_is_carried_over(images: Images) -> None:
    assert (await images.store.import_image(images.add("demo", b"1"))).config == CONFIG


async def test_the_same_image_gives_the_same_digests(images: Images) -> None:
    reference = images.add("demo", b"1")
    assert await images.store.import_image(reference) == await images.store.import_image(reference)
    assert len(await images.store.layers()) == 1


async def test_images_can_be_imported_at_once(images: Images) -> None:
    references = [images.add(f"demo{n}", str(n // 2).encode()) for n in range(4)]
    imported = await asyncio.gather(*(images.store.import_image(reference) for reference in references))
    assert len({layer for image in imported for layer in image.layers}) == 2
    assert len(await images.store.layers()) == 2


async def test_progress_is_told(images: Images) -> None:
    said: list[str] = []
    await images.store.import_image(images.add("demo", b"1"), progress=said.append)
    assert said
    assert all(said)


async def test_an_unknown_image_fails_and_leaves_nothing(images: Images) -> None:
    with pytest.raises(StorageFailure):
        await images.store.import_image("oci:/nowhere/at/all")
    assert images.leftovers() == []


async def test_a_reference_that_is_none_is_the_callers_mistake(images: Images) -> None:
    with pytest.raises(InvalidRequest):
        await images.store.import_image("--option")


async def test_a_hostile_image_names_its_rule_and_leaves_nothing(images: Images) -> None:
    with pytest.raises(ImageRejected) as raised:
        await images.store.import_image(images.add_hostile("evil"))
    assert raised.value.rule == "device-node"
    assert images.leftovers() == []


async def test_limits_hold(images: Images) -> None:
    reference = images.add("large", b"x" * 200_000)
    with pytest.raises(ImageRejected) as raised:
        await images.store.import_image(reference, limits=ImageLimits(unpacked_bytes=100_000))
    assert raised.value.rule == "unpacked-size"
    assert images.leftovers() == []


async def test_deleted_layers_are_gone_and_can_be_made_again(images: Images) -> None:
    reference = images.add("demo", b"1")
    before = await images.store.import_image(reference)
    for layer in before.layers:
        await images.store.delete_layer(layer.digest)
        await images.store.delete_layer(layer.digest)
    assert await images.store.layers() == ()
    assert await images.store.import_image(reference) == before
    assert await images.store.layers() == before.layers


@pytest.fixture(params=["fake", "real"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> DiskStore:
    return FakeDiskStore() if request.param == "fake" else LocalDiskStore(tmp_path / "uppers")


async def test_an_upper_has_the_size_asked_for_and_costs_little(disks: DiskStore, tmp_path: Path) -> None:
    for size_mib in (1, 100, 3000):
        upper = tmp_path / f"{size_mib}"
        await disks.create_upper(upper, size_mib=size_mib)
        status = upper.stat()
        assert status.st_size == size_mib * 2**20
        assert status.st_blocks * 512 < 2**20


async def test_an_upper_can_be_written_without_touching_another(disks: DiskStore, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    await disks.create_upper(first, size_mib=4)
    with first.open("r+b") as file:
        file.seek(3 * 2**20)
        file.write(b"written")
    await disks.create_upper(second, size_mib=4)
    assert b"written" in first.read_bytes()
    assert b"written" not in second.read_bytes()


async def test_a_clone_is_equal_and_independent(disks: DiskStore, tmp_path: Path) -> None:
    source, clone = tmp_path / "a", tmp_path / "b"
    await disks.create_upper(source, size_mib=16)
    with source.open("r+b") as file:
        for offset in (0, 5 * 2**20 + 3, 16 * 2**20 - 4):
            file.seek(offset)
            file.write(b"here")
    await disks.clone_upper(source, clone)
    original = source.read_bytes()
    assert clone.read_bytes() == original
    with clone.open("r+b") as file:
        file.write(b"changed")
    assert source.read_bytes() == original


async def test_a_path_that_is_taken_is_left_alone(disks: DiskStore, tmp_path: Path) -> None:
    source, taken = tmp_path / "a", tmp_path / "b"
    await disks.create_upper(source, size_mib=4)
    taken.write_bytes(b"mine")
    with pytest.raises(StorageFailure):
        await disks.create_upper(taken, size_mib=4)
    with pytest.raises(StorageFailure):
        await disks.clone_upper(source, taken)
    assert taken.read_bytes() == b"mine"


async def test_a_clone_of_nothing_fails_and_leaves_nothing(disks: DiskStore, tmp_path: Path) -> None:
    with pytest.raises(StorageFailure):
        await disks.clone_upper(tmp_path / "missing", tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_a_disk_can_be_made_durable_and_an_absent_one_cannot(disks: DiskStore, tmp_path: Path) -> None:
    upper = tmp_path / "a"
    await disks.create_upper(upper, size_mib=4)
    content = upper.read_bytes()
    await disks.sync_upper(upper)
    assert upper.read_bytes() == content
    with pytest.raises(StorageFailure):
        await disks.sync_upper(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


async def test_a_disk_grows_and_keeps_what_is_in_it(disks: DiskStore, tmp_path: Path) -> None:
    upper = tmp_path / "a"
    await disks.create_upper(upper, size_mib=4)
    content = upper.read_bytes()
    for size_mib in (4, 3000):
        await disks.grow_upper(upper, size_mib=size_mib)
        assert upper.stat().st_size == size_mib * 2**20
    assert upper.stat().st_blocks * 512 < 2**20
    with upper.open("rb") as file:
        assert file.read(len(content)) == content
    with pytest.raises(InvalidRequest):
        await disks.grow_upper(upper, size_mib=4)
    with pytest.raises(StorageFailure):
        await disks.grow_upper(tmp_path / "missing", size_mib=4)
    assert not (tmp_path / "missing").exists()


async def test_a_disk_without_size_is_the_callers_mistake(disks: DiskStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        await disks.create_upper(tmp_path / "a", size_mib=0)


async def test_deleted_disks_are_gone_and_absent_ones_are_success(disks: DiskStore, tmp_path: Path) -> None:
    upper = tmp_path / "a"
    await disks.create_upper(upper, size_mib=1)
    await disks.delete(upper)
    await disks.delete(upper)
    assert not upper.exists()


async def test_a_volume_has_the_size_asked_for_and_costs_little(disks: DiskStore, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    await disks.create_volume(volume, size_mib=4096)
    assert volume.stat().st_size == 4096 * 2**20
    assert volume.stat().st_blocks * 512 < 2**20


async def test_a_volume_that_cannot_be_made_leaves_what_is_there(disks: DiskStore, tmp_path: Path) -> None:
    taken = tmp_path / "volume"
    taken.write_bytes(b"another's")
    with pytest.raises(StorageFailure):
        await disks.create_volume(taken, size_mib=64)
    assert taken.read_bytes() == b"another's"
    with pytest.raises(InvalidRequest):
        await disks.create_volume(tmp_path / "small", size_mib=1)
    assert not (tmp_path / "small").exists()
