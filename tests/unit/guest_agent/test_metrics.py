from __future__ import annotations

from guest_agent.metrics import CpuTimes, parse_cpu_times, parse_meminfo, used_percent


def test_cpu_times_leave_out_guest_time() -> None:
    assert parse_cpu_times("cpu  10 20 30 40 5 6 7 8 9 10\ncpu0 1 1 1 1") == CpuTimes(total=126, idle=45)


def test_used_percent_is_of_the_time_between() -> None:
    assert used_percent(CpuTimes(100, 50), CpuTimes(200, 125)) == 25.0
    assert used_percent(CpuTimes(100, 50), CpuTimes(100, 50)) == 0.0


def test_meminfo_is_in_bytes() -> None:
    text = "MemTotal:       2048 kB\nHugePages_Total:       0\nCached:  1 kB\n"
    assert parse_meminfo(text) == {"MemTotal": 2048 * 1024, "Cached": 1024}
