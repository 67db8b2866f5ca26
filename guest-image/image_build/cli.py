"""The command line of `guest-image/build.py`."""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from image_build.errors import BuildError
from image_build.places import Places
from image_build.progress import say
from image_build.targets import Targets

_DESCRIPTION = "Build what runs inside a sandbox. Without change of its inputs a target is not built again."


def main(source: Path, arguments: Sequence[str] | None = None) -> int:
    choice = _parser().parse_args(arguments).target
    places = Places.of_checkout(source)
    targets = Targets.of(places)
    steps = {
        "kernel": (targets.kernel, targets.manifest),
        "agent": (targets.agent, targets.manifest),
        "images": (targets.images,),
        "all": (targets.kernel, targets.agent, targets.manifest, targets.images),
        "lock": (targets.lock,),
    }
    try:
        with _alone(places.output):
            for step in steps[choice]:
                step()
    except BuildError as error:
        print(f"build.py {choice}: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Wait until no other build of this checkout runs: tests and deployment start one each."""
    output.mkdir(exist_ok=True)
    with (output / "guest-image.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of this checkout to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build.py", description=_DESCRIPTION)
    targets = parser.add_subparsers(dest="target", required=True, metavar="TARGET")
    for name, meaning in (
        ("kernel", "vmlinuz and initramfs.img"),
        ("agent", "agent.squashfs, the guest agent's disk"),
        ("images", "base and code-interpreter-v1, as OCI layouts"),
        ("all", "everything above"),
        ("lock", "pin the versions that the package mirrors offer now"),
    ):
        targets.add_parser(name, help=meaning)
    return parser
