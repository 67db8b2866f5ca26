from __future__ import annotations

from pathlib import Path

from guest_agent.identity.names import hosts_with, write_hosts, write_machine_id, write_markers
from guest_agent.session import Session


def test_the_host_name_is_added_once_and_the_rest_is_kept() -> None:
    first = hosts_with("127.0.0.1 localhost\n10.0.0.1 db", "one")
    assert first.splitlines()[:2] == ["127.0.0.1 localhost", "10.0.0.1 db"]
    assert first.splitlines()[2].startswith("127.0.1.1 one ")
    assert hosts_with(first, "one") == first
    assert hosts_with(first, "two") == first.replace(" one ", " two ")


def test_an_image_without_a_hosts_file_gets_one(tmp_path: Path) -> None:
    write_hosts(tmp_path, "one")
    assert (tmp_path / "hosts").read_text().startswith("127.0.0.1 localhost\n127.0.1.1 one")
    write_hosts(tmp_path / "no-etc", "one")
    assert not (tmp_path / "no-etc").exists()


def test_the_machine_id_goes_to_run_where_etc_cannot_take_it(tmp_path: Path) -> None:
    etc, run = tmp_path / "etc", tmp_path / "run"
    run.mkdir()
    write_machine_id(etc, run, "a" * 32)
    assert (run / "machine-id").read_text() == "a" * 32 + "\n"
    etc.mkdir()
    write_machine_id(etc, run, "b" * 32)
    assert (etc / "machine-id").read_text() == "b" * 32 + "\n"
    write_machine_id(tmp_path / "none", tmp_path / "none", "c" * 32)


def test_markers_follow_the_sandbox(tmp_path: Path) -> None:
    directory = tmp_path / "e2b"
    for sandbox in ("long-sandbox-id", "short"):
        write_markers(directory, Session(sandbox_id=sandbox, template_id="base"))
        assert (directory / ".E2B_SANDBOX_ID").read_text() == sandbox
