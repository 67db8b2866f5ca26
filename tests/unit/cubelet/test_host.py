"""What a node says of its machine, read from a /proc of the test's own and from the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.cubelet.host import HostWatch


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mounts").write_text("/dev/a / ext4 rw 0 0\n/dev/b /tmp xfs rw 0 0\n/dev/c /tm btrfs rw 0 0\n")
    (tmp_path / "cpuinfo").write_text("cpu family\t: 6\nmodel\t\t: 85\nmodel name\t: A CPU\n\nmodel name\t: B\n")
    (tmp_path / "meminfo").write_text(
        "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n"
        "HugePages_Total: 8\nHugePages_Free: 5\nHugePages_Rsvd: 1\nHugepagesize: 2048 kB\n"
    )
    (tmp_path / "stat").write_text("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1\n")
    return tmp_path


def test_the_machine_is_read_as_the_kernel_tells_it(proc: Path) -> None:
    report = HostWatch(Path("/tmp"), proc=proc).read()

    assert (report.memory_total_bytes, report.memory_used_bytes) == (1000 * 1024, 600 * 1024)
    assert (report.huge_pages_total, report.huge_pages_used, report.huge_pages_reserved) == (8, 3, 1)
    assert (report.cpu_family, report.cpu_model, report.cpu_model_name) == ("6", "85", "A CPU")
    assert (report.disk.mount_point, report.disk.device, report.disk.filesystem_type) == ("/tmp", "/dev/b", "xfs")
    assert 0 < report.disk.used_bytes < report.disk.total_bytes


def test_processors_are_as_busy_as_they_were_since_the_last_look(proc: Path) -> None:
    watch = HostWatch(Path("/"), proc=proc)
    assert watch.read().cpu_used_pct == 0
    (proc / "stat").write_text("cpu  30 0 20 100 10 0 0 0 0 0\ncpu0 1 1\n")
    # 60 ticks, of which 20 idle and 10 waiting for a disk.
    assert watch.read().cpu_used_pct == 50.0
    assert watch.read().cpu_used_pct == 0


def test_the_real_proc_can_be_read() -> None:
    assert HostWatch(Path("/")).read().memory_total_bytes > 2**28
