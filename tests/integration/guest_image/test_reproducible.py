"""The same inputs give the same guest: wherever it is built, and however often."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from image_build.hashing import sha256_file
from image_build.targets import Targets
from tests.support.guest_images import PLACES

pytestmark = [pytest.mark.root]


def build(checkout: Path, output: Path) -> bytes:
    """Build the guest of `checkout` into `output` and return its manifest."""
    targets = Targets.of(replace(PLACES, source=checkout, output=output))
    targets.kernel()
    targets.agent()
    targets.manifest()
    return (output / "guest/manifest.json").read_bytes()


def test_two_builds_in_two_checkouts_give_the_same_manifest(tmp_path: Path) -> None:
    # A checkout's files have the time of the checkout, and it may have been used: neither may show.
    elsewhere = tmp_path / "a longer path to another checkout"
    shutil.copytree(PLACES.source, elsewhere, copy_function=shutil.copy)
    (elsewhere / "agent/guest_agent/__pycache__").mkdir(exist_ok=True)
    (elsewhere / "agent/guest_agent/__pycache__/stale.cpython-311.pyc").write_bytes(b"stale")

    first = build(PLACES.source, tmp_path / "first")
    assert build(elsewhere, tmp_path / "second") == first

    for name, artefact in json.loads(first)["artefacts"].items():
        path = tmp_path / "first/guest" / name
        assert (sha256_file(path), path.stat().st_size) == (artefact["sha256"], artefact["size_bytes"])


def test_nothing_is_built_again_without_a_reason(tmp_path: Path) -> None:
    build(PLACES.source, tmp_path)
    disk = tmp_path / "guest/agent.squashfs"
    before = disk.stat().st_ino
    build(PLACES.source, tmp_path)
    assert disk.stat().st_ino == before
