"""Layers that a stranger could send, and the rule by which each must be refused. Small, whatever they claim."""

from __future__ import annotations

import gzip
from dataclasses import dataclass

from appliance.storage.base import ImageLimits
from tests.support.oci_images import E, tar_bytes

TIGHT = ImageLimits(unpacked_bytes=8 * 2**20, entries=100)
"""Caps that a test can breach without the cost of breaching the real ones."""

DEFAULT = ImageLimits()

MIB = 2**20


@dataclass(frozen=True)
class Hostile:
    name: str
    rule: str
    layers: tuple[bytes, ...]
    limits: ImageLimits = DEFAULT
    stored: tuple[bytes, ...] | None = None
    """The blobs, where they are not the layers compressed as usual."""


def _one(name: str, rule: str, *entries: E, limits: ImageLimits = DEFAULT) -> Hostile:
    return Hostile(name, rule, (tar_bytes(entries),), limits)


def _exabyte_file() -> bytes:
    archive = bytearray(tar_bytes([E("x")]))
    archive[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


_PLAIN = tar_bytes([E("f", data=b"1" * 2000)])

HOSTILE: tuple[Hostile, ...] = (
    _one("traversal", "path-traversal", E("../etc/passwd")),
    _one("traversal_inside", "path-traversal", E("a/../../etc/passwd")),
    _one("traversal_that_stays_inside", "path-traversal", E("a/../b")),
    _one("absolute", "absolute-path", E("/etc/passwd")),
    _one("hard_link_to_absolute", "absolute-path", E("shadow", "h", link="/etc/shadow")),
    _one("hard_link_outside", "path-traversal", E("shadow", "h", link="../../etc/shadow")),
    _one("hard_link_to_nothing", "bad-link", E("x", "h", link="y")),
    _one("hard_link_through_symbolic_link", "bad-link", E("e", "l", link="/etc"), E("x", "h", link="e/shadow")),
    _one("write_through_symbolic_link", "parent-not-directory", E("e", "l", link="/etc"), E("e/passwd")),
    _one("write_through_hard_linked_symbolic_link", "parent-not-directory",
         E("e", "l", link="/etc"), E("f", "h", link="e"), E("f/passwd")),
    _one("directory_then_link", "type-conflict", E("d/x"), E("d", "l", link="/etc")),
    _one("symbolic_link_to_nothing", "bad-link", E("s", "l", link="")),
    _one("symbolic_link_too_long", "bad-link", E("s", "l", link="x" * 4096)),
    _one("character_device", "device-node", E("dev/mem", "c")),
    _one("block_device", "device-node", E("dev/vda", "b")),
    _one("overlay_whiteout_device", "device-node", E("x", "c")),
    _one("overlay_attributes", "overlay-xattr", E("x", pax={"SCHILY.xattr.trusted.overlay.redirect": "/"})),
    _one("xattr_too_large", "xattr-too-large", E("x", pax={"SCHILY.xattr.user.a": "v" * 65537})),
    _one("whiteout_of_nothing", "bad-whiteout", E("d/.wh.")),
    _one("whiteout_of_here", "bad-whiteout", E("d/.wh..")),
    _one("whiteout_of_parent", "bad-whiteout", E("d/.wh...")),
    _one("whiteout_with_content", "bad-whiteout", E(".wh.x", data=b"1")),
    _one("whiteout_directory", "bad-whiteout", E(".wh.x", "d")),
    _one("whiteout_symbolic_link", "bad-whiteout", E(".wh.x", "l", link="/")),
    _one("below_a_whiteout", "bad-whiteout", E(".wh.x/y")),
    _one("root_is_a_file", "bad-name", E("./")),
    _one("root_is_a_link", "bad-name", E(".", "l", link="/")),
    _one("no_name", "bad-name", E("")),
    _one("name_not_utf8", "name-encoding", E("caf\udce9")),
    _one("link_not_utf8", "name-encoding", E("s", "l", link="caf\udce9")),
    _one("name_too_long", "path-too-long", E("x" * 256)),
    _one("path_too_long", "path-too-long", E("/".join(["y" * 200] * 30))),
    _one("path_too_deep", "path-depth", E("/".join(["d"] * 257))),
    _one("sparse", "sparse-entry", E("x", pax={"GNU.sparse.size": str(2**60)})),
    _one("owner_out_of_range", "number-out-of-range", E("x", pax={"uid": str(2**32)})),
    _one("too_many_entries", "entries", *[E(f"f{i}") for i in range(101)], limits=TIGHT),
    _one("too_many_duplicates", "entries", *[E("f")] * 101, limits=TIGHT),
    _one("too_large_in_one_file", "unpacked-size", E("x", data=bytes(9 * MIB)), limits=TIGHT),
    Hostile("too_large_in_sum", "unpacked-size", (tar_bytes([E("x", data=bytes(3 * MIB))]),) * 3, TIGHT),
    Hostile("exabyte", "unpacked-size", (_exabyte_file(),)),
    Hostile("gzip_bomb", "compression-ratio", (tar_bytes([E("x", data=bytes(80 * MIB))]),)),
    Hostile("truncated_tar", "truncated", (_PLAIN[:1500],)),
    Hostile("not_a_tar", "bad-header", (b"#!/bin/sh\n" * 100,)),
    Hostile("truncated_gzip", "truncated", (_PLAIN,), stored=(gzip.compress(_PLAIN)[:-20],)),
    Hostile("gzip_without_its_checksum", "truncated", (_PLAIN,), stored=(gzip.compress(_PLAIN)[:-4],)),
    Hostile("not_what_the_config_names", "diff-id-mismatch", (_PLAIN,), stored=(gzip.compress(tar_bytes([E("g")])),)),
    Hostile("trailing_noise_in_gzip", "bad-compression", (_PLAIN,), stored=(gzip.compress(_PLAIN) + b"noise",)),
)  # fmt: skip
