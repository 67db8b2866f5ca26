"""The agent's disk: the guest agent with an interpreter, a C library and a loader of its own.

    /sbin/init                    process 1 of the sandbox
    /bin/python3.11               Debian's interpreter
    /lib/ld-linux-x86-64.so.2     the loader that starts it, and every shared library it needs
    /lib/python3.11/              the standard library, trimmed
    /lib/python3.11/dist-packages the agent and its wheels

Python finds its library relative to /bin, so the disk works wherever it is mounted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from image_build import commands
from image_build.errors import BuildError

MOUNT_POINT = "/run/cube/agent"
PYTHON = "python3.11"

_LIBRARY = f"lib/{PYTHON}"
_PACKAGES = f"{_LIBRARY}/dist-packages"
_LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_UNUSED_STDLIB = (
    "config-3.11-x86_64-linux-gnu",
    "curses",
    "dbm",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sitecustomize.py",
    "sqlite3",
    "test",
    "tkinter",
    "turtle.py",
    "turtledemo",
    "unittest",
)
_UNUSED_EXTENSIONS = ("_curses", "_curses_panel", "_dbm", "_sqlite3", "nis", "readline")
"""Modules whose libraries the disk would need for them alone."""
_UNUSED_LIBRARIES = ("audit", "engines-3", "gconv", "ossl-modules", "perl-base")
"""Plug-ins of libc and OpenSSL that only image programs would load."""


class MissingLibrary(BuildError):
    def __init__(self, binary: Path, said: str) -> None:
        super().__init__(f"{binary} needs a library that the agent's packages do not have: {said.strip()}")


def lay_out(packages: Path, root: Path) -> None:
    """Move what the agent needs out of the unpacked `packages` into the tree of its disk."""
    (root / "bin").mkdir(parents=True)
    (root / "lib").mkdir()
    shutil.copy2(packages / "usr/bin" / PYTHON, root / "bin" / PYTHON)
    shutil.copytree(packages / "usr/lib" / PYTHON, root / _LIBRARY, symlinks=True)
    for directory in _LIBRARY_DIRECTORIES:
        for library in sorted((packages / directory).glob("*.so*")):
            shutil.copy2(library, root / "lib" / library.name, follow_symlinks=False)
    for unused in _UNUSED_STDLIB:
        _remove(root / _LIBRARY / unused)
    for unused in _UNUSED_EXTENSIONS:
        for extension in (root / _LIBRARY / "lib-dynload").glob(f"{unused}.*.so"):
            extension.unlink()
    for unused in _UNUSED_LIBRARIES:
        _remove(root / "lib" / unused)


def site_packages(root: Path) -> Path:
    path = root / _PACKAGES
    path.mkdir(exist_ok=True)
    return path


def add_package(source: Path, root: Path) -> None:
    shutil.copytree(source, site_packages(root) / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def check_libraries(root: Path) -> None:
    """Fail if a program or module on the disk needs a library that is not on it."""
    binaries = [root / "bin" / PYTHON, *sorted((root / _LIBRARY).rglob("*.so"))]
    for binary in binaries:
        listed = commands.run([*_loader(root), "--list", binary])
        outside = [line for line in listed.splitlines() if "=>" in line and f"=> {root}/" not in line]
        if outside:
            raise MissingLibrary(binary.relative_to(root), outside[0])


def compile_bytecode(root: Path) -> None:
    """Compile all Python once, here. The hash in each .pyc is not checked again: the disk cannot change."""
    commands.run(
        [
            *_interpreter(root), "-m", "compileall", "-q", "-o", "0",
            "--invalidation-mode", "unchecked-hash",
            "-s", root, "-p", MOUNT_POINT,
            root / _LIBRARY,
        ],
        # The order of sets in the code would differ from run to run.
        env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def check_imports(root: Path, modules: Iterable[str]) -> None:
    """Fail if what the agent is made of does not import with nothing but the disk's own files."""
    commands.run([*_interpreter(root), "-I", "-B", "-c", "import " + ", ".join(modules)])


def _loader(root: Path) -> list[str | Path]:
    return [root / "lib/ld-linux-x86-64.so.2", "--inhibit-cache", "--library-path", root / "lib"]


def _interpreter(root: Path) -> list[str | Path]:
    return [*_loader(root), root / "bin" / PYTHON]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
