"""COPY: which part of the uploaded tar goes where, and the scripts that bring it there; pure.

The tar is written into the guest as a file and unpacked there: the host never looks into it, but for the two bytes
that tell gzip.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.cubelet.builds.accounts import script
from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.steps import Copy

GZIP_MAGIC = b"\x1f\x8b"
_GLOB = frozenset("*?[{")


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Paths in the guest."""

    tar: str
    unpacked: str
    source: str
    """What of `unpacked` is copied: a file, a link, or a directory whose content is merged."""
    destination: str
    """Absolute; a slash at its end makes it a directory to put a file into."""
    owner: str
    mode: str

    def unpack(self, *, gzipped: bool) -> tuple[str, ...]:
        return script(_UNPACK, "unpack", self.tar, self.unpacked, "-xzf" if gzipped else "-xf")

    def place(self) -> tuple[str, ...]:
        return script(_PLACE, "copy", self.source, self.destination, self.owner, self.mode, self.unpacked)

    def remove(self) -> tuple[str, ...]:
        return script('rm -rf -- "$1" "$2"', "clean", self.tar, self.unpacked)


def plan_copy(step: Copy, destination: str, context: StepContext) -> CopyPlan:
    """Return what to do. `destination` is the step's with its variables replaced."""
    directory = f"/tmp/.copy-{step.files_hash}"  # noqa: S108 - in the guest, as root, and removed after the step
    owner = step.owner or context.user
    source = without_glob(step.source)
    return CopyPlan(
        tar=f"{directory}.tar",
        unpacked=directory,
        source=f"{directory}/{source}" if source else directory,
        destination=destination if destination.startswith("/") else f"{context.workdir.rstrip('/')}/{destination}",
        owner=owner if ":" in owner else f"{owner}:{owner}",
        mode=step.mode or "",
    )


def without_glob(source: str) -> str:
    """Return the leading components without a pattern: the client has matched it, and its tar has the whole paths."""
    kept = []
    for component in source.split("/"):
        if _GLOB & set(component):
            break
        if component not in ("", "."):
            kept.append(component)
    return "/".join(kept)


_UNPACK = r"""
set -e
if ! command -v tar >/dev/null 2>&1; then
    echo 'COPY needs tar, which this image does not have; install it in a RUN step before' >&2
    exit 1
fi
rm -rf -- "$2"
mkdir -p -- "$2"
tar "$3" "$1" -C "$2"
rm -f -- "$1"
"""

_PLACE = r"""
set -e
source=$1 destination=$2 owner=$3 mode=$4
if [ ! -e "$source" ] && [ ! -L "$source" ]; then
    echo "the uploaded files have no '${source#"$5"/}'" >&2
    exit 1
fi
# A group of the user's name may not exist; then it is the user's own group.
case $owner in
    "${owner%%:*}:${owner%%:*}")
        grep -q "^${owner%%:*}:" /etc/group 2>/dev/null || owner=${owner%%:*}:$(id -g "${owner%%:*}") ;;
esac
if [ -L "$source" ] || [ ! -d "$source" ]; then
    chown -h "$owner" "$source"
    [ -z "$mode" ] || [ -L "$source" ] || chmod "$mode" "$source"
    case $destination in
        */) directory=$destination ;;
        *) directory=$(dirname "$destination") ;;
    esac
    mkdir -p "$directory"
    mv -f "$source" "$destination"
else
    chown -hR "$owner" "$source"
    [ -z "$mode" ] || chmod -R "$mode" "$source"
    mkdir -p "$destination"
    if tar --version 2>/dev/null | grep -q GNU; then
        # Replaces links to files rather than writing through them, follows links to directories (/lib -> usr/lib), and
        # leaves owner and mode of directories that are there.
        (cd "$source" && tar -cf - .) | tar -xpf - -C "$destination" --keep-directory-symlink --no-overwrite-dir
    else
        cp -a "$source"/. "$destination"/
    fi
fi
"""
