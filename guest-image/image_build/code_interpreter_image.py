"""The image `code-interpreter-v1`: the layer of `base`, and over it the code interpreter in /opt/code-interpreter.

The kernels' libraries go where `python3` and `pip` of the image's user find them, so that code cells and commands see
one set of packages. The servers have a virtual environment of their own, which no `pip install` can break.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from image_build import apt, base_image, commands, java_trust, layer_tar, pins, wheels
from image_build.commands import SOURCE_DATE_EPOCH
from image_build.progress import say

NAME = "code-interpreter-v1"

_INSTALL_ROOT = "opt/code-interpreter"
_VENV = f"{_INSTALL_ROOT}/venv"
_SYSTEM_LIBRARY = "usr/local/lib/python3.11"
_LIBRARIES = (f"{_VENV}/lib/python3.11/site-packages", f"{_SYSTEM_LIBRARY}/dist-packages")
_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
_JAVA_AUTHORITIES = "etc/ssl/certs/java/cacerts"
_NOT_INSTALLED = shutil.ignore_patterns("__pycache__", "requirements", "README.md")

RUN = replace(base_image.RUN, cmd=(f"/{_INSTALL_ROOT}/start.sh",))


def build(
    base_layer: Path,
    source: Path,
    *,
    packages: Sequence[Path],
    wanted: pins.Unpacked,
    server: wheels.Locked,
    kernels: wheels.Locked,
    layer: Path,
    scratch: Path,
) -> None:
    """Install the code interpreter over the base layer, and keep what that added."""
    root = scratch / "root"
    say("code-interpreter-v1: unpacking the base layer")
    with tarfile.open(base_layer) as archive:
        present = frozenset(archive.getnames())
        archive.extractall(root)  # noqa: S202 - we wrote this archive
    say(f"code-interpreter-v1: unpacking {len(packages)} packages")
    apt.unpack(packages, root)
    _make_up(root, wanted)
    shutil.copytree(source, root / _INSTALL_ROOT, ignore=_NOT_INSTALLED)

    say("code-interpreter-v1: installing wheels")
    pip = ["python3", "-m", "pip"]
    _in_root(root, "python3", "-m", "venv", "--without-pip", f"/{_VENV}")
    _install(root, pip, kernels)
    _install(root, [*pip, f"--python=/{_VENV}/bin/python"], server)
    for library in _LIBRARIES:
        _remove_tests(root / library)

    say("code-interpreter-v1: compiling bytecode")
    _fix_times(root, present)
    compiled = (f"/{_INSTALL_ROOT}", f"/{_SYSTEM_LIBRARY}")
    _in_root(root, "python3", "-m", "compileall", "-q", "--invalidation-mode", "timestamp", *compiled)
    say("code-interpreter-v1: writing the layer")
    layer_tar.pack_added(root, layer, present=present, image=NAME)


def _make_up(root: Path, wanted: pins.Unpacked) -> None:
    """Do what installing the packages would have done."""
    for pattern in wanted.without:
        for path in root.glob(pattern):
            path.unlink()
    for link, target in wanted.links.items():
        (root / link).parent.mkdir(exist_ok=True)
        (root / link).symlink_to(target)
    java_trust.write(root / _AUTHORITIES, root / _JAVA_AUTHORITIES)


def _install(root: Path, pip: Sequence[str], locked: wheels.Locked) -> None:
    inside = root / "wheels"
    shutil.copytree(locked.directory, inside)
    shutil.copy2(locked.lock, inside / "lock")
    _in_root(
        root,
        *(*pip, "install", "--quiet", "--no-input", "--no-cache-dir", "--no-compile"),
        *("--no-index", "--no-deps", "--root-user-action=ignore", "--find-links=/wheels"),
        *("--require-hashes", "--requirement=/wheels/lock"),
    )
    shutil.rmtree(inside)


def _in_root(root: Path, *argv: str) -> None:
    """Run a program of the image on its files. Bytecode is written once, at the end; hash order is fixed for it."""
    commands.run(
        ["chroot", root, *argv],
        env={
            "PATH": base_image.RUN.env["PATH"],
            "HOME": "/root",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        },
    )


def _remove_tests(library: Path) -> None:
    """Packages' own tests are a third of the libraries' size, and hold what looks like secrets."""
    for directory in sorted(library.rglob("test*")):
        if directory.name in ("test", "tests") and directory.is_dir():
            shutil.rmtree(directory)


def _fix_times(root: Path, present: frozenset[str]) -> None:
    """Give what was added the time that it will have in the layer: bytecode is valid for the time of its source."""
    for path in root.rglob("*"):
        if str(path.relative_to(root)) not in present:
            os.utime(path, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH), follow_symlinks=False)
