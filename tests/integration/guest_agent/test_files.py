from __future__ import annotations

import gzip
import os
import pwd
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.guest_agent.agent import Agent, Answer

pytestmark = pytest.mark.root
OCTETS = {"Content-Type": "application/octet-stream"}


def put(agent: Agent, path: Path | str, content: bytes, query: str = "", **headers: str) -> Answer:
    sent = {**OCTETS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return agent.request("POST", f"/files?path={quote(str(path))}{query}", content, headers=sent)


def get(agent: Agent, path: Path | str, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return agent.request("GET", f"/files?path={quote(str(path))}", headers=sent)


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, content in parts:
        disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body += b"--XX\r\n" + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + b"--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}


def test_an_upload_makes_directories_and_gives_them_to_the_user(agent: Agent, open_directory: Path) -> None:
    path = open_directory / "a" / "b" / "f"
    answer = put(agent, path, b"content", "&username=www-data")
    assert answer.json == [{"path": str(path), "name": "f", "type": "file"}]
    owner = pwd.getpwnam("www-data")
    for made in (path, path.parent, path.parent.parent):
        assert (made.stat().st_uid, made.stat().st_gid) == (owner.pw_uid, owner.pw_gid)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755


def test_an_upload_overwrites_in_place(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"longer than before")
    path.chmod(0o755)
    inode = path.stat().st_ino
    put(agent, path, b"new")
    assert path.read_bytes() == b"new"
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o755)


def test_relative_paths_start_at_the_users_home(agent: Agent) -> None:
    answer = put(agent, "relative-upload-of-a-test", b"x")
    try:
        assert answer.json[0]["path"] == "/root/relative-upload-of-a-test"
        assert get(agent, "~/relative-upload-of-a-test").body == b"x"
    finally:
        Path("/root/relative-upload-of-a-test").unlink()


def test_a_multipart_upload_takes_names_from_its_parts(agent: Agent, tmp_path: Path) -> None:
    body, headers = multipart((f"{tmp_path}/d/one", b"1\r\n--X"), (f"{tmp_path}/two", b""))
    answer = agent.request("POST", "/files", body, headers=headers)
    assert [entry["path"] for entry in answer.json] == [f"{tmp_path}/d/one", f"{tmp_path}/two"]
    assert (tmp_path / "d/one").read_bytes() == b"1\r\n--X"
    assert (tmp_path / "two").read_bytes() == b""


def test_two_parts_for_one_path_are_refused(agent: Agent, tmp_path: Path) -> None:
    body, headers = multipart(("one", b"1"), ("two", b"2"))
    answer = agent.request("POST", f"/files?path={tmp_path}/same", body, headers=headers)
    assert (answer.status, "same path" in answer.json["message"]) == (400, True)


@pytest.mark.parametrize("cut", [3, 30, 60])
def test_a_truncated_multipart_body_is_refused(agent: Agent, tmp_path: Path, cut: int) -> None:
    body, headers = multipart((f"{tmp_path}/f", b"content"))
    assert agent.request("POST", "/files", body[:-cut], headers=headers).status == 400


def test_a_gzip_upload_is_unpacked(agent: Agent, tmp_path: Path) -> None:
    content = b"zeros" * 1_000_000
    assert put(agent, tmp_path / "f", gzip.compress(content), Content_Encoding="gzip").status == 200
    assert (tmp_path / "f").read_bytes() == content
    for broken in (gzip.compress(content)[:-9], b"not gzip"):
        assert put(agent, tmp_path / "g", broken, Content_Encoding="gzip").status == 400
    assert put(agent, tmp_path / "g", b"x", Content_Encoding="br").status == 400


def test_each_upload_replaces_the_metadata(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    answer = put(agent, path, b"", X_Metadata_One="1", X_Metadata_Two="2")
    assert answer.json[0]["metadata"] == {"one": "1", "two": "2"}
    put(agent, path, b"", X_Metadata_Two="3")
    assert os.listxattr(path) == ["user.e2b.two"]
    put(agent, path, b"")
    assert os.listxattr(path) == []
    assert put(agent, path, b"", X_Metadata_Big="v" * 5000).status == 400


def test_what_is_no_file_cannot_be_written_or_read(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "f").touch()
    assert put(agent, tmp_path, b"x").status == 400
    assert put(agent, tmp_path / "pipe", b"x").status == 400
    assert put(agent, tmp_path / "f" / "below", b"x").status == 400
    assert put(agent, "/dev/null", b"x").status == 400
    assert "is a directory" in get(agent, tmp_path).json["message"]
    assert get(agent, tmp_path / "pipe").status == 400
    missing = get(agent, tmp_path / "missing")
    assert missing.json == {"code": 404, "message": f"path '{tmp_path}/missing' does not exist"}
    assert agent.request("GET", "/files?path=/etc/hosts&username=nobody-here").status == 401


def test_ranges(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    whole = get(agent, path)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, b"0123456789", "bytes")
    part = get(agent, path, Range="bytes=2-4")
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert get(agent, path, Range="bytes=-3").body == b"789"
    modified = whole.headers["last-modified"]
    assert get(agent, path, Range="bytes=2-4", If_Range=modified).status == 206
    assert get(agent, path, Range="bytes=2-4", If_Range="Thu, 01 Jan 1970 00:00:00 GMT").status == 200
    beyond = get(agent, path, Range="bytes=10-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */10")


def test_a_download_says_what_it_is(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "page ä.html"
    path.write_bytes(b"<p>")
    answer = get(agent, path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''page%20%C3%A4.html"
    assert answer.headers["vary"].startswith("Accept-Encoding")
    unchanged = get(agent, path, If_Modified_Since=answer.headers["last-modified"])
    assert (unchanged.status, unchanged.body) == (304, b"")
    head = agent.request("HEAD", f"/files?path={quote(str(path))}")
    assert (head.status, head.headers["content-length"], head.body) == (200, "3", b"")


def test_gzip_is_given_to_those_who_ask_for_it_alone(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 100_000)
    packed = get(agent, path, Accept_Encoding="gzip", Range="bytes=0-1")
    assert (packed.status, packed.headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(packed.body) == b"a" * 100_000
    assert "content-encoding" not in get(agent, path, Accept_Encoding="gzip, deflate, br").headers
    assert get(agent, path, Accept_Encoding="br, identity;q=0").status == 406


def test_empty_files_have_a_length_and_sizeless_ones_their_content(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    empty = get(agent, tmp_path / "empty")
    assert (empty.status, empty.headers["content-length"], empty.body) == (200, "0", b"")
    assert get(agent, "/proc/sys/kernel/ostype").body == b"Linux\n"


def test_compose_joins_and_removes_the_pieces(agent: Agent, tmp_path: Path) -> None:
    pieces = [tmp_path / name for name in ("1", "2")]
    for piece in pieces:
        piece.write_bytes(piece.name.encode() * 3)
    request = b'{"source_paths": ["%s", "%s"], "destination": "%s"}'
    made = str(tmp_path / "all").encode()
    answer = agent.request("POST", "/files/compose", request % (*(str(p).encode() for p in pieces), made))
    assert (answer.status, answer.json["path"]) == (200, str(tmp_path / "all"))
    assert (tmp_path / "all").read_bytes() == b"111222"
    assert not any(piece.exists() for piece in pieces)
    again = agent.request("POST", "/files/compose", request % (*(str(p).encode() for p in pieces), made))
    assert again.status == 404
    assert (tmp_path / "all").read_bytes() == b"111222"


def test_a_full_disk_is_507_and_the_agent_goes_on(agent: Agent, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True, timeout=30)
    try:
        full = agent.request("POST", f"/files?path={tmp_path}/large", b"a" * 8_000_000, headers=OCTETS)
        assert (full.status, full.json["code"]) == (507, 507)
        assert agent.request("POST", f"/files?path={tmp_path}/large", b"small", headers=OCTETS).status == 200
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=30)


def test_a_client_that_leaves_mid_upload_leaves_the_agent_well(agent: Agent, tmp_path: Path) -> None:
    with socket.create_connection(("127.0.0.1", agent.port)) as connection:
        connection.sendall(
            f"POST /files?path={tmp_path}/f HTTP/1.1\r\nHost: x\r\nX-Access-Token: {agent.token}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\npart".encode()
        )
    assert agent.request("GET", "/health").status == 204
