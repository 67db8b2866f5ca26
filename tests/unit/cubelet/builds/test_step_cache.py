from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.step_cache import StepCache
from appliance.cubelet.metrics import CubeletMetrics
from appliance.domain.errors import DiskFull
from appliance.storage.fake import FakeDiskStore

MIB = 2**20
CONTEXT = StepContext(user="me", workdir="/app", env={"A": "1"})


def _cache(root: Path, *, limit: int = 10 * MIB, reserve: int = 0) -> StepCache:
    metrics = CubeletMetrics(CollectorRegistry())
    cache = StepCache(root / "steps", disks=FakeDiskStore(), metrics=metrics, limit_bytes=limit, reserve_bytes=reserve)
    cache.load()
    return cache


async def _keep(cache: StepCache, key: str, *, size: int = MIB, template: str = "t") -> None:
    async def copy_to(path: Path) -> None:
        _write(path, os.urandom(size))

    await cache.keep(key, template, CONTEXT, copy_to)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "steps").iterdir())


async def test_what_is_kept_is_found_again_after_a_restart(tmp_path: Path) -> None:
    await _keep(_cache(tmp_path), "one")
    cache = _cache(tmp_path)
    assert cache.has("one")
    disk, context = cache.use("one")
    assert disk.stat().st_size == MIB
    assert context == CONTEXT
    assert not cache.has("two")


async def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = _cache(tmp_path, limit=int(2.5 * MIB))
    await _keep(cache, "one")
    await _keep(cache, "two")
    cache.use("one")
    await _keep(cache, "three")
    assert _names(tmp_path) == ["one", "three"]
    assert [key for key in ("one", "two", "three") if cache.has(key)] == ["one", "three"]


async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    for number, key in enumerate(("b", "a")):
        await _keep(cache, key)
        os.utime(tmp_path / "steps" / key / "meta.json", ns=(number, number))
    _cache(tmp_path, limit=int(1.5 * MIB))
    assert _names(tmp_path) == ["a"]


async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = _cache(tmp_path)

    async def copy_to(path: Path) -> None:
        _write(path, b"half")
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        await cache.keep("one", "t", CONTEXT, copy_to)
    assert _names(tmp_path) == []
    assert not cache.has("one")


def test_what_an_interrupted_cubelet_left_is_removed(tmp_path: Path) -> None:
    for name in (".partial", ".deleted-x", "without-meta"):
        (tmp_path / "steps" / name).mkdir(parents=True)
        (tmp_path / "steps" / name / "upper.img").touch()
    _cache(tmp_path)
    assert _names(tmp_path) == []


async def test_keeping_again_replaces(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    await _keep(cache, "one")
    await _keep(cache, "one", size=2 * MIB)
    assert cache.use("one")[0].stat().st_size == 2 * MIB
    assert _names(tmp_path) == ["one"]


async def test_a_template_takes_its_own_with_it(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    await _keep(cache, "one", template="t")
    await _keep(cache, "two", template="other")
    await cache.drop_template("t")
    assert _names(tmp_path) == ["two"]


async def test_nothing_is_kept_that_takes_what_is_in_reserve_or_more_than_the_limit(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(MIB))
    assert _cache(tmp_path).has_room_for(disk)
    assert not _cache(tmp_path, limit=0).has_room_for(disk)
    assert not _cache(tmp_path, reserve=2**62).has_room_for(disk)
