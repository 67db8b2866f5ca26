from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

from image_build import oci

RUN = oci.RunConfig(env={"PATH": "/bin", "LANG": "C.UTF-8"}, user="user", cmd=("/start",))


def layer(path: Path) -> oci.LayerFile:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    return oci.layer_file(path, "a layer")


def test_blobs_are_named_by_their_hash_and_reached_from_the_index(tmp_path: Path) -> None:
    digest = oci.write_layout(tmp_path / "image", layers=[layer(tmp_path / "l.tar")], run=RUN, tag="latest")
    blobs = tmp_path / "image/blobs/sha256"
    assert all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs.iterdir())
    (entry,) = json.loads((tmp_path / "image/index.json").read_text())["manifests"]
    assert entry["digest"] == digest
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_text())
    reached = {entry["digest"], manifest["config"]["digest"], *(item["digest"] for item in manifest["layers"])}
    assert reached == {f"sha256:{blob.name}" for blob in blobs.iterdir()}


def test_skopeo_reads_the_layout_and_its_configuration(tmp_path: Path) -> None:
    oci.write_layout(tmp_path / "image", layers=[layer(tmp_path / "l.tar")], run=RUN, tag="latest")
    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci:{tmp_path}/image:latest"], check=True, capture_output=True
    )
    config = json.loads(inspected.stdout)["config"]
    assert config["Env"] == ["PATH=/bin", "LANG=C.UTF-8"]
    assert (config["User"], config["Cmd"]) == ("user", ["/start"])


def test_an_image_without_command_says_none(tmp_path: Path) -> None:
    run = oci.RunConfig(env={}, user="user")
    config = oci.image_config([layer(tmp_path / "l.tar")], run)["config"]
    assert isinstance(config, dict)
    assert "Cmd" not in config


def test_the_same_layers_give_the_same_digest(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "l.tar")]
    digests = {oci.write_layout(tmp_path / name, layers=layers, run=RUN, tag="latest") for name in ("one", "two")}
    assert len(digests) == 1
