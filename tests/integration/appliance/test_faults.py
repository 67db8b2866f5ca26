"""What dies or restarts under sandboxes in use: nothing is lost that lives, nothing is left of what died."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration.appliance.conftest import Program, Site, eventually
from tests.support.appliance import Service

pytestmark = [pytest.mark.root, pytest.mark.guest]

# Streams a count, one line a number, for as long as anybody lets it.
STREAM = """
    from e2b import Sandbox
    sandbox = Sandbox.create("base")
    print(sandbox.sandbox_id)
    count = "n=0; while :; do n=$((n + 1)); echo n=$n; sleep 0.1; done"
    try:
        sandbox.commands.run(count, timeout=0, on_stdout=lambda text: print(text, end=""))
    except Exception as error:
        print("error:", type(error).__name__, str(error).replace("\\n", " "))
"""


def _follows_on(program: Program, *, numbers: int) -> None:
    """Fail unless the next numbers that are printed follow each other without a gap."""
    last = int(program.line().removeprefix("n="))
    for _ in range(numbers):
        line = program.line()
        assert line == f"n={last + 1}"
        last += 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "kill-9"])
def test_a_cubelet_that_restarts_disturbs_nothing_that_runs(how: signal.Signals, site: Site) -> None:
    with site.program(STREAM) as program:
        sandbox_id = program.line()
        program.until("n=3")
        before = site.info(sandbox_id)
        vmm = site.vmm_of(sandbox_id)
        site.appliance.cubelet.restart(how)
        _follows_on(program, numbers=20)
        assert site.vmm_of(sandbox_id) == vmm
        eventually(lambda: site.appliance.cli("node", "list")[0]["state"] == "ready")
        assert site.info(sandbox_id) == before
        listed = site.run("from e2b import Sandbox\nprint([s.sandbox_id for s in Sandbox.list().next_items()])")
        assert listed.strip() == f"[{sandbox_id!r}]"
        site.run(f"from e2b import Sandbox\nassert Sandbox.kill({sandbox_id!r})")
        assert "sandbox was killed or reached its end of life" in program.until("error:")[-1]


@pytest.mark.parametrize("service", ["master", "api"])
def test_a_control_service_that_restarts_disturbs_nothing_that_runs(service: str, site: Site) -> None:
    with site.program(STREAM) as program:
        sandbox_id = program.line()
        program.until("n=3")
        getattr(site.appliance, service).restart(signal.SIGKILL)
        _follows_on(program, numbers=10)
        assert site.run(
            f"from e2b import Sandbox\nprint(Sandbox.connect({sandbox_id!r}).commands.run('echo on').stdout)"
        )


def test_a_vmm_that_is_killed_ends_its_sandbox_and_nothing_else(site: Site) -> None:
    other = site.create()
    before = site.settled()
    with site.program(STREAM) as program:
        sandbox_id = program.line()
        program.until("n=3")
        os.kill(site.vmm_of(sandbox_id), signal.SIGKILL)
        assert "sandbox was killed or reached its end of life" in program.until("error:")[-1]
    eventually(lambda: site.info(sandbox_id)["state"] == "ended")
    assert site.info(sandbox_id)["end_reason"] == "vmm_died"
    eventually(lambda: site.ledger() == before, says=site.ledger)
    status, body = site.curl(
        "-H", f"E2b-Sandbox-Id: {sandbox_id}", "-H", "E2b-Sandbox-Port: 49983", "http://127.0.0.1/"
    )
    assert status == 502
    assert "was not found" in body
    answer = site.run(
        f"from e2b import Sandbox\nprint(Sandbox.connect({other!r}).commands.run('echo still here').stdout)"
    )
    assert answer.strip() == "still here"


def test_a_kill_ends_streams_with_the_sdks_own_words(site: Site) -> None:
    with site.program(STREAM) as program:
        sandbox_id = program.line()
        program.until("n=3")
        site.run(f"from e2b import Sandbox\nassert Sandbox.kill({sandbox_id!r})")
        assert "sandbox was killed or reached its end of life" in program.until("error:")[-1]
        program.finish()
    assert site.info(sandbox_id)["end_reason"] == "killed"


def test_a_sandbox_ends_at_its_time_with_reason_timeout(site: Site) -> None:
    sandbox_id = site.create(timeout=3)
    eventually(lambda: site.info(sandbox_id)["state"] == "ended")
    assert site.info(sandbox_id)["end_reason"] == "timeout"
    with pytest.raises(AssertionError, match="SandboxNotFoundException"):
        site.run(f"from e2b import Sandbox\nSandbox.connect({sandbox_id!r})")


def test_an_emptied_redis_is_filled_again_while_requests_flow(site: Site) -> None:
    with site.program(
        """
        import time
        from e2b import Sandbox
        sandbox = Sandbox.create("base")
        print(sandbox.sandbox_id)
        failed = None
        while True:
            begun = time.monotonic()
            running = sandbox.is_running()
            if running and failed is not None:
                print(f"recovered after {time.monotonic() - failed:.2f}")
                failed = None
            elif not running and failed is None:
                failed = begun
            print("running" if running else "not running")
            time.sleep(0.05)
        """
    ) as program:
        sandbox_id = program.line()
        program.until("running")
        outages = []
        for _ in range(5):
            with site.appliance.redis.client() as redis:
                redis.flushall()
                eventually(lambda: redis.exists(f"cube:route:{sandbox_id}") == 1, seconds=10)
            for _ in range(4):
                line = program.line()
                if line.startswith("recovered"):
                    outages.append(float(line.split()[-1]))
        program.until("running")
    # None is the rule: a proxy that misses a route asks CubeMaster.
    assert [seconds for seconds in outages if seconds > 2] == []


def test_a_create_whose_cubemaster_was_killed_leaves_nothing(site: Site, impatient_master: Service) -> None:
    before = site.rest()
    cubelet = site.appliance.cubelet
    assert cubelet.process is not None
    # Through `ip netns exec`, which becomes the program it runs: the process is Cubelet itself.
    os.kill(cubelet.process.pid, signal.SIGSTOP)
    try:
        with site.program("from e2b import Sandbox\nSandbox.create('base', request_timeout=2)"):
            eventually(lambda: site.rows() == ["creating"], says=site.rows)
            impatient_master.stop(signal.SIGKILL)
    finally:
        os.kill(cubelet.process.pid, signal.SIGCONT)
    # The node makes what it was asked for, though nobody waits for it any more.
    eventually(lambda: site.sandboxes_on_disk() == 1, says=site.sandboxes_on_disk)
    assert site.rows() == ["creating"]
    impatient_master.start()
    eventually(lambda: site.ledger() == before, says=site.ledger)
    assert site.sandboxes_on_disk() == 0
