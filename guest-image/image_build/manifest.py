"""`manifest.json`: what the guest is made of, and how it wants to be started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from image_build.hashing import sha256_file
from image_build.pins import Machine

ARTEFACTS = ("vmlinuz", "initramfs.img", "agent.squashfs")


def write(guest: Path, *, machine: Machine, kernel: str, inputs: Mapping[str, str]) -> None:
    """Describe the artefacts in `guest`. The same artefacts give the same file: no date, no host name, no path."""
    content = {
        "schema": 1,
        "kernel": kernel,
        "machine": asdict(machine),
        "artefacts": {
            name: {"sha256": sha256_file(guest / name), "size_bytes": (guest / name).stat().st_size}
            for name in ARTEFACTS
        },
        "inputs": dict(inputs),
    }
    partial = guest / "manifest.json.partial"
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    partial.replace(guest / "manifest.json")
