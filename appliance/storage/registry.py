"""Images from a registry, copied by skopeo into a temporary OCI layout."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

from appliance.common.process import CommandFailed, run
from appliance.domain.errors import DiskFull, StorageFailure
from appliance.storage.base import ImageLimits, RegistryCredentials
from appliance.storage.confinement import WORKER_UID, Ceiling, confined
from appliance.storage.reference import OciLayout, RegistryImage
from appliance.storage.threads import in_thread

_TEMPORARY_PREFIX = ".pull-"
"""Of directories that a Cubelet which was killed may leave: see `remove_leftovers`."""

_DEFAULT_HOST = "docker.io"
_LAYOUT_NAME = "image"
_DETAIL_MAX_LENGTH = 500
_FATAL = re.compile(r'level=fatal msg="(?P<message>(?:[^"\\]|\\.)*)"')

_ADDRESS_SPACE_BYTES = 4 * 2**30
"""Go reserves far more than it uses."""


@asynccontextmanager
async def pulled(
    image: RegistryImage,
    directory: Path,
    *,
    credentials: RegistryCredentials | None,
    insecure: frozenset[str],
    limits: ImageLimits,
) -> AsyncIterator[OciLayout]:
    """Yield a layout with the linux/amd64 image, which is gone afterwards.

    Raises `StorageFailure` with skopeo's own words, `DiskFull`, or `DeadlineExceeded`.
    """
    temporary = Path(mkdtemp(prefix=_TEMPORARY_PREFIX, dir=directory))
    try:
        (temporary / "layout").mkdir()
        # Always a file of our own: skopeo would look for the node's credentials otherwise.
        authfile = temporary / "auth.json"
        authfile.touch(mode=0o600)
        authfile.write_text(_auth(image, credentials))
        if os.geteuid() == 0:
            for path in (temporary, temporary / "layout", authfile):
                os.chown(path, WORKER_UID, WORKER_UID)
        seconds = max(1, int(limits.duration.total_seconds()))
        ceiling = Ceiling(_ADDRESS_SPACE_BYTES, cpu_s=seconds, file_bytes=limits.unpacked_bytes)
        argv = copy_argv(image, temporary, insecure=host_of(image) in insecure)
        try:
            await run(confined(argv, ceiling), deadline=limits.duration, env=_environment(temporary))
        except CommandFailed as error:
            raise _translated(image, error) from error
        yield OciLayout(temporary / "layout", _LAYOUT_NAME)
    finally:
        await in_thread(shutil.rmtree, temporary)


def remove_leftovers(directory: Path) -> None:
    """Remove what pulls of a former process left. Only before the first pull of this one."""
    for path in directory.glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)


def copy_argv(image: RegistryImage, temporary: Path, *, insecure: bool) -> list[str]:
    """Return skopeo's argv. Blobs are kept as they are, so that their digests stay the publisher's."""
    return [
        "skopeo",
        "copy",
        "--override-os=linux",
        "--override-arch=amd64",
        "--preserve-digests",
        "--quiet",
        f"--src-authfile={temporary / 'auth.json'}",
        f"--src-tls-verify={'false' if insecure else 'true'}",
        f"docker://{image.name}",
        f"oci:{temporary / 'layout'}:{_LAYOUT_NAME}",
    ]


def host_of(image: RegistryImage) -> str:
    """Return the registry's host and port: the first component if it looks like one, as Docker decides it."""
    first, slash, _ = image.name.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost"
    return first if slash and looks_like_host else _DEFAULT_HOST


def _auth(image: RegistryImage, credentials: RegistryCredentials | None) -> str:
    if credentials is None:
        return json.dumps({"auths": {}})
    secret = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
    return json.dumps({"auths": {host_of(image): {"auth": secret}}})


def _environment(temporary: Path) -> dict[str, str]:
    # HOME and TMPDIR keep it from reading anybody's configuration and from writing anywhere else.
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "XDG_RUNTIME_DIR": str(temporary),
    } | {name: os.environ[name] for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY") if name in os.environ}


def _translated(image: RegistryImage, error: CommandFailed) -> StorageFailure:
    if b"no space left on device" in error.stderr:
        return DiskFull("the node's disk has no room for the image")
    said = error.stderr.decode(errors="replace")
    fatal = _FATAL.search(said)
    detail = fatal["message"].replace('\\"', '"') if fatal is not None else str(error)
    return StorageFailure(f"cannot pull '{image.name}': {detail[:_DETAIL_MAX_LENGTH]}")
