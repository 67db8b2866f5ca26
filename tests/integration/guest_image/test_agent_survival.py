"""The agent comes back from whatever the sandbox's root does to it, and the programs it started do not notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.guest_image.conftest import Boot
from tests.integration.guest_image.guest import BootedGuest
from tests.support.guest_images import IMAGES
from tests.support.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.guest]

# The brackets keep the pattern from matching the command line of the shell that looks for it.
_FOR_AGENT = 'for p in /proc/[0-9]*; do grep -q "guest[_]agent" $p/cmdline && {action}; done'
_PID = "${p#/proc/}"
_FROZEN = "/sys/fs/cgroup/frozen"
_FREEZE = f"echo {_PID} > {_FROZEN}/cgroup.procs; echo 1 > {_FROZEN}/cgroup.freeze"
_FOREVER = ("/bin/sh", "-c", "while :; do sleep 1; done")


async def to_agent(guest: BootedGuest, action: str) -> None:
    """Do something to the agent a moment after the call that asks for it was answered."""
    doing = _FOR_AGENT.format(action=action)
    await guest.run("/bin/sh", "-c", f"(sleep 0.2; {doing}) >/dev/null 2>&1 &")


async def test_a_killed_a_stopped_and_a_stuck_agent_come_back_to_their_programs(boot: Boot, tmp_path: Path) -> None:
    guest = await boot([IMAGES["alpine"].layer(tmp_path)])
    await guest.answers()
    await guest.init()
    program = await guest.start(*_FOREVER)
    assert guest.console.count("the guest agent ended") == 0

    await to_agent(guest, f"kill -9 {_PID}")
    await eventually(lambda: "the guest agent ended (signal 9)" in guest.console)
    await guest.answers()
    assert (await guest.listed())[program] == "/bin/sh"

    # Process 1 sees the stop and undoes it: nothing is lost, not even a stream.
    await to_agent(guest, f"kill -STOP {_PID}")
    await eventually(lambda: "the guest agent was stopped (signal 19): it goes on" in guest.console)
    await guest.answers()
    assert program in await guest.listed()

    # Nothing tells process 1 of an agent in a frozen group, but that it is silent.
    await guest.run("/bin/busybox", "mkdir", _FROZEN)
    await to_agent(guest, f"{{ {_FREEZE}; }}")
    await eventually(lambda: "the guest agent does not move: killing it" in guest.console, seconds=90)
    await eventually(lambda: guest.console.count("the guest agent ended (signal 9)") == 2)
    await guest.answers()
    assert program in await guest.listed()

    await guest.run("/bin/kill", "-9", str(program))
    assert str((await guest.end_of(program))["status"]).startswith("exit status unknown")
    assert program not in await guest.listed()


async def test_the_agent_is_the_last_to_go_without_memory_and_the_first_to_run(boot: Boot, tmp_path: Path) -> None:
    guest = await boot([IMAGES["alpine"].layer(tmp_path)])
    await guest.answers()
    await guest.init()
    scores = await guest.run("/bin/sh", "-c", _FOR_AGENT.format(action="cat $p/oom_score_adj $p/autogroup"))
    assert scores.split("\n")[0] == "-999"
    assert scores.split()[-1] == "-10"
    own = await guest.run("/bin/cat", "/proc/self/oom_score_adj", "/proc/self/autogroup")
    assert own.split()[0] == "100"
    assert own.split()[-1] == "0"
