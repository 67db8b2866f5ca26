"""Build the offline bundle: `python -m bundle [--refresh] [STAGE ...]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bundle import artefacts, debian, golang, manifest, wheels
from bundle.stage import Outcome, Workplace

STAGES: Mapping[str, Callable[[Workplace], Outcome]] = {
    "debian": debian.build,
    "wheels": wheels.build,
    "bin": golang.build,
    "guest": artefacts.build_guest,
    "images": artefacts.build_images,
}
"""Each makes the part of the bundle that has its name."""


def main() -> None:
    """Build the stages that were asked for, by default all, then the manifest of the whole."""
    parser = argparse.ArgumentParser(prog="python -m bundle", description="Build the offline bundle.")
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--refresh", action="store_true", help="take newer Debian packages where there are any")
    arguments = parser.parse_args()

    place = Workplace.of_checkout(Path(__file__).resolve().parents[1], refresh=arguments.refresh)
    kept = []
    for name in arguments.stages or STAGES:
        started = time.monotonic()
        outcome = STAGES[name](place)
        print(f"bundle: {name}: {outcome.summary} ({time.monotonic() - started:.0f} s)", flush=True)
        if outcome.kept:
            kept.append(name)
    count, size = manifest.write(place.bundle, kept=kept)
    print(f"bundle: {count} files, {size / 2**20:.0f} MiB in {place.bundle}", flush=True)


if __name__ == "__main__":
    main()
