"""The two templates that every appliance starts with, made from the OCI images of the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lab import host
from lab.appliance import cubemastercli, on_machine

TEMPLATES: Mapping[str, Sequence[str]] = {
    "base": (),
    "code-interpreter-v1": ("--expose-port", "49999", "--expose-port", "49983", "--probe", "49999"),
}
"""Options of `cubemastercli tpl create-from-image`, by the name of the template and of its image."""


def make_templates() -> None:
    """Build each, unless it is ready and was built from the same image for the same guest."""
    ready = {
        alias
        for template in cubemastercli("tpl", "list")
        if template["status"] == "ready"
        for alias in template["aliases"]
    }
    for name, options in TEMPLATES.items():
        made_from = host.STATE / "templates" / name
        key = _inputs(name)
        if name in ready and made_from.exists() and made_from.read_text() == key:
            print(f"{name} is ready")
            continue
        image = f"oci:/opt/cube/images/{name}"
        create = [
            "tpl",
            "create-from-image",
            "--image",
            image,
            "--name",
            name,
            "--writable-layer-size",
            "1G",
            "--public",
        ]
        build = cubemastercli(*create, *options)
        host.run(on_machine("cubemastercli", "tpl", "watch", "--job-id", build["build_id"]))
        made_from.parent.mkdir(exist_ok=True)
        made_from.write_text(key)


def _inputs(name: str) -> str:
    """What the template is made of, by the bundle's manifest."""
    manifest = (host.CHECKOUT / "build" / "bundle" / "SHA256SUMS").read_text()
    parts = [line for line in manifest.splitlines() if f"  images/{name}/" in line or "  guest/" in line]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
