"""The appliance in the lab, as its clients and its operator see it. Tests and benchmarks use this too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import host

_CAROOT = "/root/.local/share/mkcert"


@dataclass(frozen=True, slots=True)
class Appliance:
    """A deployed appliance, and a key to use it with."""

    domain: str
    api_key: str
    authority: Path
    """The certificate that clients must trust."""

    @property
    def environment_file(self) -> Path:
        """Lines for a shell that make the SDK use the appliance."""
        return host.STATE / "env"

    @classmethod
    def of_lab(cls, domain: str = "cube.app") -> Appliance:
        """The one that site.yml deployed. Makes an API key the first time, and keeps it in the lab's directory."""
        authority = host.STATE / "rootCA.pem"
        authority.write_text(host.output(on_machine("cat", f"{_CAROOT}/rootCA.pem")))
        appliance = cls(domain=domain, api_key=_api_key(), authority=authority)
        appliance.environment_file.touch(mode=0o600)
        appliance.environment_file.write_text(
            "".join(f"export {name}={value}\n" for name, value in appliance.client_environment().items())
        )
        return appliance

    def client_environment(self) -> dict[str, str]:
        """For the SDK in the lab's namespace, through CubeProxy with TLS."""
        return {"E2B_API_KEY": self.api_key, "E2B_DOMAIN": self.domain, "SSL_CERT_FILE": str(self.authority)}

    def machine_environment(self) -> dict[str, str]:
        """For the SDK on the machine itself, without TLS and without names."""
        return {
            "E2B_API_KEY": self.api_key,
            "E2B_API_URL": "http://127.0.0.1:3000",
            "E2B_SANDBOX_URL": "http://127.0.0.1",
        }


def inside_lab(argv: Sequence[str | Path]) -> list[str | Path]:
    """`argv`, run where the appliance's names resolve and its addresses are reached."""
    return ["ip", "netns", "exec", host.NAMESPACE, *argv]


def inside_machine(argv: Sequence[str | Path]) -> list[str | Path]:
    """`argv`, run with this host's files and the network of the machine."""
    return ["ip", "netns", "exec", f"{host.NAMESPACE}-{host.MACHINE}", *argv]


def on_machine(*argv: str) -> list[str | Path]:
    """`argv`, run on the machine as root."""
    ssh: list[str | Path] = ["ssh", "-i", host.STATE / "ssh" / "id_ed25519"]
    options = [f"-oUserKnownHostsFile={host.STATE / 'ssh' / 'known_hosts'}", "-oLogLevel=ERROR", "-oBatchMode=yes"]
    return inside_lab([*ssh, *options, f"root@{host.MACHINE_ADDRESS}", host.shown(argv)])


def cubemastercli(*arguments: str) -> Any:
    """What the operator's command answers as JSON."""
    return json.loads(host.output(on_machine("cubemastercli", "--json", *arguments)))


def _api_key() -> str:
    kept = host.STATE / "api-key.json"
    known = cubemastercli("key", "list")
    if kept.exists():
        key = json.loads(kept.read_text())
        if any(one["key_id"] == key["key_id"] for one in known):
            return str(key["key"])
    kept.touch(mode=0o600)
    key = cubemastercli("key", "create", "--name", "lab")
    kept.write_text(json.dumps(key))
    return str(key["key"])
