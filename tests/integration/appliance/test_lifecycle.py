"""Pause, resume, snapshots and forks as the unmodified SDK does them, with real guests."""

from __future__ import annotations

from tests.integration.appliance.conftest import PATIENCE_S, Site


def test_a_paused_sandbox_comes_back_as_it_was(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300, metadata={"who": "agent"})
        run = lambda command: sandbox.commands.run(command).stdout.strip()
        sandbox.files.write("/tmp/kept", "kept")
        boot = run("cat /proc/sys/kernel/random/boot_id")
        pid = sandbox.commands.run("sleep 1000", background=True).pid
        paused = sandbox.pause()
        again = sandbox.pause()
        running = sandbox.is_running()
        info = Sandbox.get_info(sandbox.sandbox_id)
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300)
        print(json.dumps({
            "paused": bool(paused), "again": bool(again), "running": running, "state": str(info.state.value),
            "metadata": sandbox.get_info().metadata, "kept": sandbox.files.read("/tmp/kept"),
            "same_boot": run("cat /proc/sys/kernel/random/boot_id") == boot,
            "process": any(one.pid == pid for one in sandbox.commands.list()),
        }))
        sandbox.kill()
        """,
    )
    assert answer == {
        "paused": True,
        "again": False,
        "running": False,
        "state": "paused",
        "metadata": {"who": "agent"},
        "kept": "kept",
        "same_boot": True,
        "process": True,
    }


def test_traffic_wakes_what_its_timeout_paused(site: Site) -> None:
    answer = site.ask(
        f"""
        import json, time
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300, lifecycle={{"on_timeout": "pause", "auto_resume": True}})
        sandbox.files.write("/tmp/kept", "kept")
        sandbox.set_timeout(0)
        give_up = time.monotonic() + {PATIENCE_S}
        while Sandbox.get_info(sandbox.sandbox_id).state.value != "paused" and time.monotonic() < give_up:
            time.sleep(0.2)
        state = Sandbox.get_info(sandbox.sandbox_id).state.value
        kept = sandbox.files.read("/tmp/kept")
        print(json.dumps({{"state": state, "kept": kept, "now": sandbox.get_info().state.value}}))
        sandbox.kill()
        """,
    )
    assert answer == {"state": "paused", "kept": "kept", "now": "running"}


def test_a_snapshot_is_started_twice_and_a_fork_goes_its_own_way(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300)
        sandbox.files.write("/tmp/kept", "before")
        snapshot = sandbox.create_snapshot()
        sandbox.files.write("/tmp/kept", "after")
        copies = [Sandbox.create(snapshot.snapshot_id, timeout=300) for _ in range(2)]
        read = [one.files.read("/tmp/kept") for one in copies]
        copies[0].files.write("/tmp/kept", "mine")
        untouched = copies[1].files.read("/tmp/kept")
        listed = [one.snapshot_id for one in Sandbox.list_snapshots().next_items()]
        for one in copies:
            one.kill()
        forks = sandbox.fork(timeout=60, count=2)
        forked = sorted(one.files.read("/tmp/kept") for one in forks)
        ids = {sandbox.sandbox_id, *(one.sandbox_id for one in forks)}
        for one in forks:
            one.kill()
        deleted, again = Sandbox.delete_snapshot(snapshot.snapshot_id), Sandbox.delete_snapshot(snapshot.snapshot_id)
        print(json.dumps({
            "read": read, "untouched": untouched, "listed": snapshot.snapshot_id in listed,
            "deleted": bool(deleted), "again": bool(again), "source": sandbox.files.read("/tmp/kept"),
            "forked": forked, "ids": len(ids),
        }))
        sandbox.kill()
        """,
    )
    assert answer == {
        "read": ["before", "before"],
        "untouched": "before",
        "listed": True,
        "deleted": True,
        "again": False,
        "source": "after",
        "forked": ["after", "after"],
        "ids": 3,
    }


def test_a_sandbox_that_was_rolled_back_is_what_it_was_behind_the_same_name(site: Site) -> None:
    answer = site.ask(
        """
        import json, os
        import httpx
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300)
        sandbox.files.write("/tmp/kept", "before")
        pid = sandbox.commands.run("sleep 1000", background=True).pid
        snapshot = sandbox.create_snapshot()
        def back():
            answer = httpx.post(
                f"{os.environ['E2B_API_URL']}/sandboxes/{sandbox.sandbox_id}/rollback",
                headers={"X-API-Key": os.environ["E2B_API_KEY"]},
                json={"snapshotID": snapshot.snapshot_id},
                timeout=60,
            )
            return answer.status_code, answer.json()
        info = sandbox.get_info()
        rounds = []
        for _ in range(2):
            sandbox.files.write("/tmp/kept", "after")
            sandbox.commands.kill(pid)
            undone = sandbox.commands.run("sleep 1000", background=True)
            status, body = back()
            try:
                undone.wait()
                cut = False
            except Exception:  # which of them the SDK makes of a reset depends on when it hears of it
                cut = True
            rounds.append({
                "status": status, "same": body["sandboxID"] == sandbox.sandbox_id, "cut": cut,
                "kept": sandbox.files.read("/tmp/kept"),
                "runs": pid in (pids := [one.pid for one in sandbox.commands.list()]), "undone": undone.pid not in pids,
            })
        sandbox.pause()
        refused, why = back()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300)
        Sandbox.delete_snapshot(snapshot.snapshot_id)
        print(json.dumps({
            "rounds": rounds, "refused": refused, "why": "while in 'paused' state" in why["message"],
            "started": sandbox.get_info().started_at == info.started_at, "kept": sandbox.files.read("/tmp/kept"),
            "unknown": back()[0],
        }))
        sandbox.kill()
        """,
    )
    one = {"status": 200, "same": True, "cut": True, "kept": "before", "runs": True, "undone": True}
    assert answer == {
        "rounds": [one, one],
        "refused": 409,
        "why": True,
        "started": True,
        "kept": "before",
        "unknown": 404,
    }
