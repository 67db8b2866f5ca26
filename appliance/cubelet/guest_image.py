"""The guest image this node boots templates with, as its build's manifest describes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from appliance.common.settings import SettingsError


@dataclass(frozen=True, slots=True)
class GuestImage:
    kernel: Path
    initramfs: Path
    agent_disk: Path
    cmdline: str


def load(directory: Path) -> GuestImage:
    """Read `manifest.json` in `directory`, following links once: a template keeps the release it was built with."""
    directory = directory.resolve()
    manifest_path = directory / "manifest.json"
    try:
        cmdline = json.loads(manifest_path.read_bytes())["machine"]["cmdline"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{manifest_path}: no usable guest image ({error}); the guest_image role installs it"
        ) from error
    image = GuestImage(
        kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs.img",
        agent_disk=directory / "agent.squashfs",
        cmdline=cmdline,
    )
    for path in (image.kernel, image.initramfs, image.agent_disk):
        if not path.is_file():
            raise SettingsError(f"{path} is missing; the guest_image role installs it")
    return image
