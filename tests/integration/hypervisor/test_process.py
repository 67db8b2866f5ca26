from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.errors import VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor import errtext, sockets
from appliance.hypervisor.base import VmProcess
from appliance.hypervisor.process import ProcessWatch, executable, spawn, start_time_ticks
from tests.support.waiting import eventually


@pytest.fixture
def errors() -> Iterator[int]:
    fd = errtext.create()
    yield fd
    os.close(fd)


def identity(pid: int) -> VmProcess:
    started, program = start_time_ticks(pid), executable(pid)
    assert started is not None
    assert program is not None
    return VmProcess(VmId("vm"), pid, started, program, control_socket="", runtime_dir="")


def in_process_table(pid: int) -> bool:
    """Whether `pid` runs, or is a zombie."""
    return Path(f"/proc/{pid}").exists()


async def end(watch: ProcessWatch) -> None:
    watch.kill()
    async with asyncio.timeout(10):
        await watch.wait()
    watch.close()


async def test_process_that_ends_is_noticed_and_reaped(errors: int) -> None:
    pid = spawn(["sh", "-c", "echo oops >&2"], inherit=(), stderr=errors)
    watch = ProcessWatch(pid)
    async with asyncio.timeout(10):
        await watch.wait()
    watch.close()
    assert errtext.read(errors) == "oops"
    assert not in_process_table(pid)


async def test_process_has_its_own_session_and_only_the_files_it_was_given(errors: int, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as given, (tmp_path / "kept").open("w") as kept:
        # As for a tap that another spawn is about to hand to its own child.
        os.set_inheritable(kept.fileno(), True)
        script = f"test -e /proc/self/fd/{given.fileno()} && ! test -e /proc/self/fd/{kept.fileno()} && exec sleep 60"
        pid = spawn(["sh", "-c", script], inherit=(given.fileno(),), stderr=errors)
    watch = ProcessWatch(pid)
    await eventually(lambda: watch.exited or (executable(pid) or "").endswith("sleep"))
    assert not watch.exited, errtext.read(errors)
    assert os.getsid(pid) == pid
    await end(watch)


async def test_absent_program_is_an_error(errors: int) -> None:
    with pytest.raises(VmmFailure, match="not installed"):
        spawn(["/nonexistent/vmm"], inherit=(), stderr=errors)


async def test_only_the_very_process_is_found(errors: int) -> None:
    watch = ProcessWatch(spawn(["sleep", "60"], inherit=(), stderr=errors))
    vm = identity(watch.pid)
    found = ProcessWatch.of(vm)
    assert found is not None
    found.close()
    assert ProcessWatch.of(replace(vm, start_time_ticks=vm.start_time_ticks + 1)) is None
    assert ProcessWatch.of(replace(vm, executable="/usr/bin/another")) is None
    await end(watch)
    assert ProcessWatch.of(vm) is None


async def test_process_is_found_after_its_program_was_upgraded(errors: int, tmp_path: Path) -> None:
    program = tmp_path / "vmm"
    shutil.copy(shutil.which("sleep") or "", program)
    watch = ProcessWatch(spawn([str(program), "60"], inherit=(), stderr=errors))
    vm = identity(watch.pid)
    program.unlink()
    found = ProcessWatch.of(vm)
    assert found is not None
    found.close()
    await end(watch)


async def test_process_that_ended_unwatched_is_not_found_and_leaves_no_zombie(errors: int) -> None:
    pid = spawn(["sleep", "60"], inherit=(), stderr=errors)
    vm = identity(pid)
    os.kill(pid, 9)
    await eventually(lambda: start_time_ticks(pid) is None)
    assert ProcessWatch.of(vm) is None
    assert not in_process_table(pid)


async def test_error_output_is_bounded_and_begins_with_the_first(errors: int) -> None:
    watch = ProcessWatch(spawn(["sh", "-c", "echo first >&2; yes >&2"], inherit=(), stderr=errors))
    async with asyncio.timeout(10):
        await watch.wait()
    watch.close()
    assert errtext.read(errors).startswith("first\ny\ny")
    assert os.fstat(errors).st_size == errtext.SIZE_BYTES


async def test_socket_with_a_long_path_can_be_used(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    with sockets.listen(directory / "socket") as listener:
        assert (directory / "socket").stat().st_mode & 0o777 == 0o600
        with await sockets.connect(directory / "socket") as connection:
            accepted, _ = listener.accept()
            with accepted:
                accepted.send(b"x")
                assert await asyncio.get_running_loop().sock_recv(connection, 1) == b"x"


async def test_socket_does_not_replace_another(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    with pytest.raises(OSError, match="in use"):
        sockets.listen(tmp_path / "socket")
