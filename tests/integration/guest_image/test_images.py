"""What the images that the appliance brings along hold, looked up in their layers."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.guest_images import PLACES

pytestmark = [pytest.mark.root]

TOOLS = (
    *("bash", "curl", "git", "node", "pgrep", "pip", "ps", "python3", "ss", "sudo", "tput"),
    # The name that people and agents type.
    "python",
)


@pytest.fixture(scope="module")
def layouts() -> Path:
    """Both images as they are built now; without a change since the last build this is quick."""
    subprocess.run([PLACES.source / "build.py", "images"], check=True, timeout=1200)
    return PLACES.images


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def manifest(layout: Path) -> dict[str, list[dict[str, str]]]:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    document = json.loads(blob(layout, entry["digest"]).read_text())
    assert isinstance(document, dict)
    return document


def config(layout: Path) -> dict[str, object]:
    inspected = subprocess.run(["skopeo", "inspect", "--config", f"oci:{layout}"], check=True, capture_output=True)
    document = json.loads(inspected.stdout)["config"]
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def base(layouts: Path) -> Mapping[str, tarfile.TarInfo]:
    (layer,) = manifest(layouts / "base")["layers"]
    with tarfile.open(blob(layouts / "base", layer["digest"])) as archive:
        return {info.name: info for info in archive}


def test_the_second_image_is_the_first_and_one_more_layer(layouts: Path) -> None:
    base = [layer["digest"] for layer in manifest(layouts / "base")["layers"]]
    interpreter = [layer["digest"] for layer in manifest(layouts / "code-interpreter-v1")["layers"]]
    assert interpreter[:-1] == base


def test_programs_run_as_user_in_its_home(layouts: Path) -> None:
    for name in ("base", "code-interpreter-v1"):
        settings = config(layouts / name)
        assert settings["User"] == "user"
        assert "WorkingDir" not in settings, "each user starts in a home of its own"
    assert "Cmd" not in config(layouts / "base")
    assert config(layouts / "code-interpreter-v1")["Cmd"] == ["/opt/code-interpreter/start.sh"]


@pytest.mark.parametrize("tool", TOOLS)
def test_base_has_what_an_agent_reaches_for(tool: str, base: Mapping[str, tarfile.TarInfo]) -> None:
    assert {f"usr/bin/{tool}", f"bin/{tool}"} & set(base)


def test_user_owns_its_home_and_may_do_everything(base: Mapping[str, tarfile.TarInfo]) -> None:
    assert (base["home/user"].uid, base["home/user"].gid) == (1000, 1000)
    # sudo ignores a file that others may write.
    assert base["etc/sudoers.d/user"].mode == 0o440
    assert base["usr/bin/sudo"].mode & 0o4000
    assert base["root"].mode == 0o755, "cells may work there"


def test_pip_may_install_and_apt_has_sources(base: Mapping[str, tarfile.TarInfo]) -> None:
    assert not [name for name in base if name.endswith("EXTERNALLY-MANAGED")]
    assert base["etc/apt/sources.list"].size > 0
    assert base["etc/machine-id"].size == 0


def test_cells_and_commands_see_the_same_libraries(layouts: Path) -> None:
    *_, top = manifest(layouts / "code-interpreter-v1")["layers"]
    with tarfile.open(blob(layouts / "code-interpreter-v1", top["digest"])) as archive:
        names = set(archive.getnames())
    libraries = "usr/local/lib/python3.11/dist-packages"
    for library in ("numpy", "pandas", "matplotlib", "ipykernel"):
        assert f"{libraries}/{library}/__init__.py" in names
        # Bytecode for all: an emulated processor is slow at compiling, and /usr is not the user's to write to.
        assert f"{libraries}/{library}/__pycache__/__init__.cpython-311.pyc" in names
    assert "opt/code-interpreter/venv/bin/python" in names
    assert "opt/code-interpreter/start.sh" in names
