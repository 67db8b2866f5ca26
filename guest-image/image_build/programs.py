"""Compiles the guest's two programs, `init/boot.c` and `init/init.c`."""

from __future__ import annotations

from pathlib import Path

from image_build import commands

_FLAGS = (
    "-std=gnu11", "-Os", "-static", "-Wall", "-Wextra", "-Werror",
    # Nothing in the program tells where or when it was built.
    "-s", "-Wl,--build-id=none", "-ffile-prefix-map=.=",
)  # fmt: skip


def compiler() -> str:
    """Return the compiler's and the C library's version: they are inputs of the programs like the source is."""
    library = commands.run(["dpkg-query", "--show", "--showformat=${Version}", "libc6-dev"])
    return f"{commands.run(['gcc', '--version']).splitlines()[0]}, libc6-dev {library}"


def compile_static(source: Path, destination: Path) -> None:
    """Static, so that a program starts without anything of the image it starts in."""
    commands.run(["gcc", *_FLAGS, "-o", destination, source.name], cwd=source.parent)
