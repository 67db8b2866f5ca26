"""The `base` role refuses a bundle of which one byte is not what the controller vouches for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle import manifest

CHECKOUT = Path(__file__).parents[3]
_DEADLINE_S = 120


@pytest.fixture
def machine_bundle(tmp_path: Path) -> Path:
    """What a machine was given; the controller's own copy lies beside it."""
    controller = tmp_path / "controller"
    (controller / "wheels").mkdir(parents=True)
    (controller / "wheels" / "appliance.whl").write_bytes(b"wheel")
    manifest.write(controller)
    return shutil.copytree(controller, tmp_path / "machine")


@pytest.fixture
def verify(machine_bundle: Path) -> Callable[[], tuple[bool, str]]:
    """Run the role's verification; tell whether it passed, and what it said."""
    playbook = machine_bundle.parent / "playbook.yml"
    task = {"ansible.builtin.include_role": {"name": "base", "tasks_from": "verify"}}
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    paths = {"cube_bundle_dir": str(machine_bundle.parent / "controller"), "__base_bundle": str(machine_bundle)}

    def run() -> tuple[bool, str]:
        ansible: list[str | Path] = [Path(sys.executable).with_name("ansible-playbook"), "--inventory", "localhost,"]
        done = subprocess.run(
            [*ansible, "--connection", "local", "--extra-vars", json.dumps(paths), playbook],
            env={"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "PATH": "/usr/bin:/bin", "HOME": "/root"},
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
        return done.returncode == 0, done.stdout + done.stderr

    return run


def test_bundle_as_the_controller_has_it_passes(verify: Callable[[], tuple[bool, str]]) -> None:
    passed, said = verify()
    assert passed, said


def test_flipped_byte_is_refused(machine_bundle: Path, verify: Callable[[], tuple[bool, str]]) -> None:
    (machine_bundle / "wheels" / "appliance.whl").write_bytes(b"wheeL")
    passed, said = verify()
    assert not passed
    assert "wheels/appliance.whl: FAILED" in said


def test_flipped_byte_with_a_manifest_to_match_is_refused(
    machine_bundle: Path, verify: Callable[[], tuple[bool, str]]
) -> None:
    (machine_bundle / "wheels" / "appliance.whl").write_bytes(b"wheeL")
    manifest.write(machine_bundle)
    passed, said = verify()
    assert not passed
    assert "is not the one of" in said


def test_file_that_the_manifest_does_not_name_is_refused(
    machine_bundle: Path, verify: Callable[[], tuple[bool, str]]
) -> None:
    (machine_bundle / "wheels" / "other.whl").write_bytes(b"other")
    passed, said = verify()
    assert not passed
    assert "wheels/other.whl" in said
