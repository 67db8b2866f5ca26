"""CubeProxy's configuration as its role writes it, for an nginx that a test starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "cubeproxy"


@dataclass(frozen=True)
class ProxyFiles:
    config: Path
    ca: Path


def render_proxy(
    directory: Path,
    domain: str,
    *,
    master_socket: Path,
    redis_socket: Path,
    https_port: int = 443,
    http_port: int = 80,
    api_address: str = "127.0.0.1:3000",
) -> ProxyFiles:
    """Write nginx.conf, the Lua modules and a certificate for `domain` below `directory`."""
    for name in ("runtime", "credentials", "lua"):
        (directory / name).mkdir(parents=True)
    shutil.copytree(ROLE / "files" / "lua" / "cube", directory / "lua" / "cube")
    (directory / "credentials" / "redis-password").write_text("")
    ca, certificate, key = _certificate(directory, domain)
    variables = {
        **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars" / "main.yml").read_text()),
        "ansible_managed": "made by a test",
        "cubeproxy_domain": domain,
        "cubeproxy_certificate": certificate,
        "cubeproxy_certificate_key": key,
        "cubeproxy_redis_socket": redis_socket,
        "cubeproxy_master_socket": master_socket,
        "cubeproxy_https_port": https_port,
        "cubeproxy_http_port": http_port,
        "cubeproxy_api_address": api_address,
        # Tests' sockets are root's own.
        "cubeproxy_group": "root",
        "cubeproxy_workers": "2",
        "__cubeproxy_lua": directory / "lua",
        "__cubeproxy_credentials": directory / "credentials",
        "__cubeproxy_runtime": directory / "runtime",
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    (directory / "lua" / "cube" / "settings.lua").write_text(
        templates.get_template("settings.lua.j2").render(variables)
    )
    config = directory / "nginx.conf"
    text = templates.get_template("nginx.conf.j2").render(variables)
    # The test's directories are root's alone, and so are its workers.
    config.write_text(text.replace("user www-data", "user root"))
    return ProxyFiles(config=config, ca=ca)


def _certificate(directory: Path, domain: str) -> tuple[Path, Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ("mkcert", "-cert-file", certificate, "-key-file", key, domain, f"*.{domain}"),
        env={**os.environ, "CAROOT": str(directory)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return directory / "rootCA.pem", certificate, key
