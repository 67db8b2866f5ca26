"""CubeMaster killed between a node's real work and its own record of it, one call of each kind, with guests in use.

Each step of each call is in tests/integration/cubemaster/test_crashes.py; here what the guests hold is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.appliance.conftest import IMAGE, PATIENCE_S, Site, eventually

pytestmark = [pytest.mark.root, pytest.mark.guest]

CHANGES = "UPDATE sandboxes SET changing_since = changing_since - INTERVAL 11 SECOND"
CREATES = "UPDATE sandboxes SET started_at = started_at - INTERVAL 1 HOUR WHERE state = 'creating'"
CAPTURES = "UPDATE builds SET created_at = created_at - INTERVAL 1 HOUR WHERE source_sandbox_id IS NOT NULL"
FORKS = "UPDATE templates SET created_at = created_at - INTERVAL 1 HOUR WHERE kind = 'fork'"
LEASES = "UPDATE builds SET lease_until = lease_until - INTERVAL 2 MINUTE"
"""What CubeMaster waits for, brought on by moving the times in the rows into the past."""

REMEMBERS = """
    from e2b import Sandbox
    sandbox = Sandbox.connect({sandbox_id!r}, timeout=300)
    assert sandbox.commands.run("cat /dev/shm/kept /home/user/kept").stdout.split() == ["ram", "disk"]
"""


def call(site: Site, path: str, **body: object) -> tuple[int, str]:
    """Make a call of the API as an SDK does."""
    headers = ("-H", f"X-API-Key: {site.key}", "-H", "Content-Type: application/json")
    return site.curl("-X", "POST", *headers, "-d", json.dumps(body), f"http://127.0.0.1:3000/sandboxes/{path}")


def cut_short(site: Site, point: str, make: Callable[[], tuple[int, str]], *past: str) -> None:
    """Let CubeMaster die at `point` in the middle of a call, and start it again after what is `past` by then."""
    failpoint = site.appliance.base / "master-failpoint"
    failpoint.write_text(f"{point} kill")
    status, body = make()
    assert status >= 500, body
    assert not failpoint.exists()
    site.appliance.database.execute(*past, database="cube_master")
    site.appliance.master.after_its_death()


def remembering(site: Site) -> str:
    return site.run(
        """
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
        sandbox.commands.run("echo ram > /dev/shm/kept; echo disk > /home/user/kept")
        print(sandbox.sandbox_id)
        """
    ).strip()


def becomes(site: Site, sandbox_id: str, state: str) -> None:
    """Wait until the only sandbox is in that state and nothing else is reserved."""
    eventually(lambda: site.info(sandbox_id)["state"] == state, says=lambda: site.info(sandbox_id))
    eventually(lambda: site.ledger().vcpus_reserved == (state == "running"), says=site.ledger)


def test_pause_and_the_ways_back_from_it(site: Site) -> None:
    sandbox_id = remembering(site)
    for point, state in (("pause:withdrawn", "running"), ("pause:carried-out", "paused")):
        cut_short(site, point, lambda: call(site, f"{sandbox_id}/pause"), CHANGES)
        becomes(site, sandbox_id, state)
    cut_short(site, "resume:written", lambda: call(site, f"{sandbox_id}/connect", timeout=300), CHANGES)
    becomes(site, sandbox_id, "paused")
    cut_short(site, "resume:carried-out", lambda: call(site, f"{sandbox_id}/resume", timeout=300), CHANGES)
    becomes(site, sandbox_id, "running")
    site.run(REMEMBERS.format(sandbox_id=sandbox_id))
    assert call(site, f"{sandbox_id}/pause")[0] == 204
    traffic = ("-H", f"E2b-Sandbox-Id: {sandbox_id}", "-H", "E2b-Sandbox-Port: 49983", "http://127.0.0.1/health")
    cut_short(site, "resume:carried-out", lambda: site.curl(*traffic), CHANGES)
    becomes(site, sandbox_id, "running")
    site.run(REMEMBERS.format(sandbox_id=sandbox_id))


def test_snapshot_and_fork(site: Site) -> None:
    sandbox_id = remembering(site)
    templates = site.appliance.base / "data" / "templates"
    before = set(templates.iterdir())
    cut_short(
        site, "capture:carried-out", lambda: call(site, f"{sandbox_id}/snapshots", name="warm"), CHANGES, CAPTURES
    )
    becomes(site, sandbox_id, "running")
    eventually(lambda: set(templates.iterdir()) == before)
    assert call(site, f"{sandbox_id}/snapshots", name="warm")[0] == 201
    child = site.run("from e2b import Sandbox\nprint(Sandbox.create('warm').sandbox_id)").strip()
    site.run(REMEMBERS.format(sandbox_id=child))
    site.run(f"from e2b import Sandbox\nSandbox.kill({child!r})")
    site.appliance.cli("tpl", "delete", "warm")

    forked = ("create:carried-out", lambda: call(site, f"{sandbox_id}/fork", timeout=300, count=1))
    cut_short(site, *forked, CHANGES, CREATES, CAPTURES, FORKS)
    # The copy that nobody heard of has ended; the source goes on.
    becomes(site, sandbox_id, "running")
    eventually(lambda: set(templates.iterdir()) == before)
    status, body = call(site, f"{sandbox_id}/fork", timeout=300, count=1)
    assert status == 201, body
    site.run(REMEMBERS.format(sandbox_id=json.loads(body)[0]["sandbox"]["sandboxID"]))


def test_a_template_build(site: Site) -> None:
    failpoint = site.appliance.base / "master-failpoint"
    failpoint.write_text("build:handed-out kill")
    size = ("--cpu", "1", "--memory", "256M", "--writable-layer-size", "256M")
    started = site.appliance.cli("tpl", "create-from-image", "--image", IMAGE, "--name", "cut-short", *size)
    eventually(lambda: not failpoint.exists())
    site.appliance.database.execute(LEASES, database="cube_master")
    site.appliance.master.after_its_death()
    site.appliance.cli("tpl", "watch", "--job-id", started["build_id"], timeout=3 * PATIENCE_S)
    sandbox_id = site.run("from e2b import Sandbox\nprint(Sandbox.create('cut-short').sandbox_id)").strip()
    site.run(f"from e2b import Sandbox\nSandbox.kill({sandbox_id!r})")
    site.appliance.cli("tpl", "delete", "cut-short")
