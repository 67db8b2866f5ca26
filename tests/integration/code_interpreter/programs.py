"""The programs that a code interpreter needs, installed once in the user's cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CODE_INTERPRETER = Path(__file__).parents[3] / "guest-image" / "code-interpreter"
_REQUIREMENTS = CODE_INTERPRETER / "requirements"
# The versions of Debian 12 that the image has.
_NODE_PACKAGES = ("acorn@8.8.1", "esbuild@0.17.0")
_INSTALL_DEADLINE_S = 900


@dataclass(frozen=True, slots=True)
class Programs:
    server_python: Path
    kernel_bin: Path  # holds the `python3` of the Python kernels
    node_modules: Path


def installed() -> Programs:
    """Return the programs as the requirements pin them, installing them first if need be."""
    inputs = [
        " ".join(_NODE_PACKAGES).encode(),
        sys.version.encode(),
        *(path.read_bytes() for path in _requirement_files()),
    ]
    key = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cube" / "code-interpreter" / key
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if not (cache / "complete").exists():
            _install(cache)
            (cache / "complete").touch()
    return Programs(
        server_python=cache / "server" / "bin" / "python",
        kernel_bin=cache / "kernel" / "bin",
        node_modules=cache / "node_modules",
    )


def _requirement_files() -> list[Path]:
    return sorted(_REQUIREMENTS.glob("*.txt"))


def _install(cache: Path) -> None:
    for name, options in (("server", ["--no-deps"]), ("kernel", [])):
        shutil.rmtree(cache / name, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(cache / name)])
        requirements = _REQUIREMENTS / f"{name}.txt"
        pip = [str(cache / name / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, *options, f"--requirement={requirements}"])
    _run(["npm", "install", "--silent", "--no-save", f"--prefix={cache}", *_NODE_PACKAGES])


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, timeout=_INSTALL_DEADLINE_S)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
