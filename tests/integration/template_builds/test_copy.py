"""COPY: files of the client's tar in the guest, at the place, with the owner and the mode that E2B gives them."""

from __future__ import annotations

from tests.integration.template_builds.conftest import Node, step, tar_of


async def test_files_come_where_the_client_wants_them(node: Node) -> None:
    packed = node.desk.add(
        tar_of(
            {
                "app/main.py": b"main",
                "app/lib/one.txt": b"new one",
                "app/lib/link": "one.txt",
                "run.sh": b"#!/bin/sh\necho it runs\n",
            }
        )
    )
    plain = node.desk.add(tar_of({"note with space.txt": b"plain"}, mode="w"))
    _, log = await node.built(
        step(
            "RUN",
            "mkdir -p merged/lib /opt/real && sudo ln -s /opt/real /opt/way && echo kept > merged/lib/kept",
            "root",
        ),
        step("WORKDIR", "/srv/work"),
        step("COPY", "app/main.py", "renamed.py", files_hash=packed),
        step("COPY", "app/main.py", "into/", "root", "0600", files_hash=packed),
        step("COPY", "app/lib/*", "/home/user/merged/lib", files_hash=packed),
        step("COPY", "app", "/opt/way", files_hash=packed),
        step("COPY", "run.sh", "/usr/local/bin/it-runs", "root:root", "0755", files_hash=packed),
        step("COPY", "note with space.txt", "note; touch pwned", files_hash=plain),
        step("RUN", "cat renamed.py && stat -c '%U:%G %a' renamed.py && sudo stat -c '%U:%G %a' into/main.py"),
        step("RUN", "cd /home/user/merged/lib && cat kept one.txt && readlink link && stat -c %U link one.txt"),
        step("RUN", "cat /opt/real/lib/one.txt && test -L /opt/way && it-runs"),
        step("RUN", "cat 'note; touch pwned' && ls -A /tmp | grep copy || echo nothing left"),
    )
    said = [line.partition("[stdout]: ")[2] for line in log if "[stdout]: " in line]
    assert said == [
        *("mainuser:user 640", "root:root 600"),
        *("kept", "new oneone.txt", "user", "user"),
        *("new oneit runs", "plainnothing left"),
    ]


async def test_what_cannot_be_copied_is_said(node: Node) -> None:
    packed = node.desk.add(tar_of({"there": b""}))
    where, why = await node.failed(step("COPY", "gone", "/x", files_hash=packed))
    assert where == "1"
    assert why == "copying 'gone' to '/x' failed: exit status 1: the uploaded files have no 'gone'"
    where, why = await node.failed(step("RUN", "true"), step("COPY", "a", "b", files_hash="0" * 64))
    assert where == "2"
    assert "has no files" in why


async def test_a_full_disk_is_said(node: Node) -> None:
    where, why = await node.failed(step("RUN", "dd if=/dev/zero of=big bs=1M count=300"))
    assert where == "1"
    assert why.endswith("exit status 1; the template's disk of 256 MiB is full")
