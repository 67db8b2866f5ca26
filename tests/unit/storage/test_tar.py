"""The tar reader against archives of Python's tarfile, of our own writer, and of nobody in their right mind."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import ImageRejected
from appliance.storage.tar import (
    END_OF_ARCHIVE,
    EXTENDED_HEADER_MAX_BYTES,
    Kind,
    Member,
    TarReader,
    encode,
    padding,
)
from tests.support.oci_images import E, tar_bytes

MAX_BYTES = 2**40


def read(archive: bytes, max_bytes: int = MAX_BYTES) -> list[tuple[Member, bytes]]:
    reader = TarReader(io.BytesIO(archive), max_bytes=max_bytes)
    found = []
    for member in reader:
        content = bytearray()
        reader.copy_content(content.extend)
        found.append((member, bytes(content)))
    return found


def rule_of(archive: bytes, max_bytes: int = MAX_BYTES) -> str:
    with pytest.raises(ImageRejected) as raised:
        read(archive, max_bytes)
    return raised.value.rule


def header(*, flag: bytes = b"0", size: bytes = b"00000000000\0", name: bytes = b"x", **fields: bytes) -> bytes:
    """Return a ustar header with a right checksum around whatever the fields are."""
    block = bytearray(encode(Member(name, Kind.FILE, 0o644, 0, 0, 0)))
    block[156:157] = flag
    block[124:136] = size
    for field, offset in (("mtime", 136), ("uid", 108)):
        if field in fields:
            block[offset : offset + len(fields[field])] = fields[field]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes_in_every_format(tar_format: int) -> None:
    archive = tar_bytes(
        [
            E("dir", "d", mode=0o1777, uid=12),
            E("dir/" + "n" * 90, data=b"content" * 100, mode=0o4755),
            E("dir/link", "l", link="../" + "t" * 90),
            E("dir/hard", "h", link="dir/" + "n" * 90),
            E("fifo", "p"),
        ],
        tar_format,
    )
    directory, file, link, hard, fifo = read(archive)
    assert (directory[0].kind, directory[0].mode, directory[0].uid) == (Kind.DIRECTORY, 0o1777, 12)
    assert (file[0].name, file[0].mode, file[1]) == (b"dir/" + b"n" * 90, 0o4755, b"content" * 100)
    assert (link[0].kind, link[0].link_target) == (Kind.SYMBOLIC_LINK, b"../" + b"t" * 90)
    assert (hard[0].kind, hard[0].link_target) == (Kind.HARD_LINK, b"dir/" + b"n" * 90)
    assert fifo[0].kind is Kind.FIFO


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_names_longer_than_a_header(tar_format: int) -> None:
    name = "/".join(["d" * 200] * 5)
    (member, _), (link, _) = read(tar_bytes([E(name, data=b"1"), E("l", "l", link=name)], tar_format))
    assert member.name == name.encode()
    assert link.link_target == name.encode()


def test_reads_xattrs_and_large_owners() -> None:
    ((member, _),) = read(tar_bytes([E("x", uid=3_000_000_000, pax={"SCHILY.xattr.user.a": "b=c\nd"})]))
    assert member.uid == 3_000_000_000
    assert member.xattrs == {b"user.a": b"b=c\nd"}


def test_a_global_header_changes_nothing() -> None:
    body = b"12 path=ab\n\n"
    archive = header(flag=b"g", size=b"%011o\0" % len(body)) + body + padding(len(body)) + header() + END_OF_ARCHIVE
    assert [member.name for member, _ in read(archive)] == [b"x"]


def test_negative_times_are_read() -> None:
    ((member, _),) = read(header(mtime=(-5).to_bytes(12, "big", signed=True)) + END_OF_ARCHIVE)
    assert member.mtime == -5


def test_an_archive_without_closing_blocks_is_read() -> None:
    assert len(read(header())) == 1


members = st.builds(
    Member,
    name=st.text(min_size=1, max_size=300).map(lambda text: text.replace("\0", "_").encode()),
    kind=st.just(Kind.FILE),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime=st.integers(0, 2**32 - 1),
    size=st.just(0),
    xattrs=st.dictionaries(
        st.text("abc.", min_size=1, max_size=20).map(lambda name: b"user." + name.encode()),
        st.binary(max_size=300),
        max_size=3,
    ),
)


@given(st.lists(st.tuples(members, st.binary(max_size=1500)), max_size=5))
def test_what_is_written_is_read_back_by_us_and_by_tarfile(entries: list[tuple[Member, bytes]]) -> None:
    archive = bytearray()
    expected = []
    for member, content in entries:
        sized = Member(
            member.name,
            member.kind,
            member.mode,
            member.uid,
            member.gid,
            member.mtime,
            len(content),
            b"",
            member.xattrs,
        )
        expected.append((sized, content))
        archive += encode(sized) + content + padding(len(content))
    archive += END_OF_ARCHIVE
    assert read(bytes(archive)) == expected
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as tar:
        theirs = [(info.size, info.mode, info.uid, info.gid) for info in tar]
    assert theirs == [(m.size, m.mode, m.uid, m.gid) for m, _ in expected]


@given(st.binary(max_size=4096))
def test_noise_is_rejected_or_read_but_never_anything_else(noise: bytes) -> None:
    with contextlib.suppress(ImageRejected):
        read(noise)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_archive_is_rejected_or_read_but_never_anything_else(data: st.DataObject) -> None:
    archive = bytearray(tar_bytes([E("a" * 120, data=b"1" * 600, pax={"SCHILY.xattr.user.x": "y"}), E("d", "d")]))
    for _ in range(data.draw(st.integers(1, 5))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    del archive[data.draw(st.integers(0, len(archive))) :]
    with contextlib.suppress(ImageRejected):
        read(bytes(archive))


@pytest.mark.parametrize("cut", [100, 512 + 100, 512 + 600])
def test_a_cut_archive_is_truncated(cut: int) -> None:
    assert rule_of(tar_bytes([E("x", data=b"1" * 1000)])[:cut]) == "truncated"


def test_an_extended_header_without_an_entry_is_truncated() -> None:
    archive = tar_bytes([E("n" * 150)], tarfile.GNU_FORMAT)
    assert rule_of(archive[:1024]) == "truncated"


def test_a_wrong_checksum_is_rejected() -> None:
    archive = bytearray(header() + END_OF_ARCHIVE)
    archive[0] ^= 1
    assert rule_of(bytes(archive)) == "bad-header"


def test_an_exabyte_in_a_header_is_rejected_before_anything_is_read() -> None:
    assert rule_of(header(size=b"\x80" + (2**60).to_bytes(11, "big"))) == "unpacked-size"


def test_a_negative_size_is_rejected() -> None:
    assert rule_of(header(size=(-1).to_bytes(12, "big", signed=True))) == "unpacked-size"


def test_an_enormous_extended_header_is_rejected() -> None:
    size = b"%011o\0" % (EXTENDED_HEADER_MAX_BYTES + 1)
    assert rule_of(header(flag=b"x", size=size)) == "header-too-large"


@pytest.mark.parametrize("flag", [b"1", b"2", b"5", b"6"])
def test_content_of_what_has_none_is_ambiguous(flag: bytes) -> None:
    assert rule_of(header(flag=flag, size=b"00000000005\0") + bytes(512)) == "ambiguous-size"


@pytest.mark.parametrize("flag", [b"D", b"M", b"V", b"9", b"\xff"])
def test_unknown_types_are_rejected(flag: bytes) -> None:
    assert rule_of(header(flag=flag)) == "entry-type"


def test_sparse_files_are_rejected() -> None:
    assert rule_of(header(flag=b"S")) == "sparse-entry"
    assert (
        rule_of(tar_bytes([E("x", pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**60)})])) == "sparse-entry"
    )


@pytest.mark.parametrize("body", [b"path=x\n", b"99 path=x\n", b"9 path=x\n\n", b"4 =\n\n", b"0 a=b\n", b"-8 ab=c\n"])
def test_malformed_pax_records_are_rejected(body: bytes) -> None:
    archive = header(flag=b"x", size=b"%011o\0" % len(body)) + body + padding(len(body)) + header() + END_OF_ARCHIVE
    assert rule_of(archive) == "bad-header"


@pytest.mark.parametrize("key", ["size", "uid", "mtime"])
def test_pax_numbers_must_be_numbers(key: str) -> None:
    body = b"%d %s=0x10\n" % (len(key) + 8, key.encode())
    archive = header(flag=b"x", size=b"%011o\0" % len(body)) + body + padding(len(body)) + header() + END_OF_ARCHIVE
    assert rule_of(archive) == "bad-header"
