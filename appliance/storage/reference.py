"""What an image reference may look like, and what it means: pure parsing, nothing is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class OciLayout:
    """`oci:<directory>[:<name>]`, an OCI image layout. Without a name it must hold one image."""

    directory: Path
    name: str | None


@dataclass(frozen=True, slots=True)
class DockerArchive:
    """`docker-archive:<file>[:<name>:<tag>]`, what `docker save` writes."""

    file: Path
    name: str | None


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """`[host[:port]/]path[:tag][@digest]`, with Docker's defaults for what is left out."""

    name: str


Reference = OciLayout | DockerArchive | RegistryImage

_REFERENCE_MAX_LENGTH = 1024
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY_NAME = re.compile(
    rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_LOCAL = re.compile(r"(?P<path>/[^:\0]+)(?::(?P<name>[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,255}))?")


def parse_reference(text: str) -> Reference:
    """Return what `text` refers to. Raises `InvalidRequest`.

    The grammar is closed: other transports of the tools beneath, and names that look like options, do not match.
    """
    if len(text) > _REFERENCE_MAX_LENGTH:
        raise InvalidRequest(f"an image reference has at most {_REFERENCE_MAX_LENGTH} characters")
    transport, _, rest = text.partition(":")
    if transport in ("oci", "docker-archive"):
        match = _LOCAL.fullmatch(rest)
        if match is None:
            raise InvalidRequest(f"'{text}' is not {transport}:<absolute path>[:<name>]")
        path, name = Path(match["path"]), match["name"]
        return OciLayout(path, name) if transport == "oci" else DockerArchive(path, name)
    name = text.removeprefix("docker://")
    if not _REGISTRY_NAME.fullmatch(name):
        raise InvalidRequest(f"'{text}' is not an image reference; write [host[:port]/]path[:tag][@sha256:digest]")
    return RegistryImage(name)
