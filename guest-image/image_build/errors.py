"""What can go wrong in a build, said so that the reader knows what to do next."""

from __future__ import annotations


class BuildError(Exception):
    """Base of all. `str()` is what the person at the terminal reads."""


class ToolFailed(BuildError):
    def __init__(self, argv: list[str], returncode: int, stderr: str) -> None:
        super().__init__(f"{argv[0]} ended with status {returncode}: {stderr.strip()[-6000:] or 'no message'}")
        self.argv = argv
        self.returncode = returncode


class ToolMissing(BuildError):
    def __init__(self, program: str) -> None:
        super().__init__(
            f"The program {program} is not installed. The build needs the Debian packages\n"
            "apt dpkg gcc libc6-dev mmdebstrap squashfs-tools."
        )
        self.program = program


class PinVanished(BuildError):
    def __init__(self, name: str, version: str, reason: str) -> None:
        super().__init__(
            f"{name} {version} is pinned, but the package mirror does not offer it: {reason}\n"
            "If its list of packages may be old, run `apt-get update`. If the version has been replaced,\n"
            "run `guest-image/build.py lock`, look at what changed, and commit the lock files."
        )
        self.name = name
        self.version = version


class HashMismatch(BuildError):
    def __init__(self, what: str, *, expected: str, actual: str) -> None:
        super().__init__(f"{what} has sha256 {actual}, but {expected} is pinned")
        self.what = what


class MalformedPin(BuildError):
    def __init__(self, file: str, line: str) -> None:
        super().__init__(f"{file}: expected `name=version sha256`, got {line!r}")


class UncleanImage(BuildError):
    def __init__(self, image: str, findings: list[str]) -> None:
        super().__init__(f"The image {image} holds what no image may hold:\n  " + "\n  ".join(findings))
        self.findings = findings
