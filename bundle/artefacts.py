"""What `guest-image/build.py` made: the guests' kernel and agent, and the images of the two first templates."""

from __future__ import annotations

from pathlib import Path

from bundle.stage import Outcome, Workplace, keep_only, link

GUEST_FILES = ("vmlinuz", "initramfs.img", "agent.squashfs", "manifest.json")
IMAGES = ("base", "code-interpreter-v1")


def build_guest(place: Workplace) -> Outcome:
    """Fill `guest/`."""
    source, target = place.build / "guest", place.directory("guest")
    files = [source / name for name in GUEST_FILES]
    _mirror(source, files, target)
    return Outcome(f"{len(files)} files")


def build_images(place: Workplace) -> Outcome:
    """Fill `images/<name>/`, an OCI layout each."""
    source, target = place.build / "images", place.directory("images")
    files = [path for name in IMAGES for path in (source / name).rglob("*") if path.is_file()]
    _mirror(source, files, target)
    return Outcome(", ".join(IMAGES))


def _mirror(source: Path, files: list[Path], target: Path) -> None:
    """Make `target` hold `files` and nothing else. Absent files are an error: guest-image/build.py did not finish."""
    missing = [str(path) for path in files if not path.exists()]
    if missing or not files:
        raise SystemExit(f"bundle: guest-image/build.py has not made {', '.join(missing) or source}")
    for path in files:
        link(path, target / path.relative_to(source))
    keep_only(target, [target / path.relative_to(source) for path in files])
