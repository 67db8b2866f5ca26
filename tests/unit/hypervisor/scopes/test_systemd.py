from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.domain.ids import VmId
from appliance.hypervisor.base import VmSpec
from appliance.hypervisor.scopes.base import Limits
from appliance.hypervisor.scopes.choose import choose_scopes
from appliance.hypervisor.scopes.session import SessionScopes
from appliance.hypervisor.scopes.systemd import SystemdScopes, unit_name, unit_properties

SPEC = VmSpec(VmId("i1"), 2, 512, Path("memory"), (), None, Path("run"), None)


def properties(limits: Limits) -> dict[str, Any]:
    return {str(name): value.value for name, value in unit_properties(VmId("i1"), 4711, limits)}  # type: ignore[attr-defined]


def test_unit_carries_the_id_and_lies_in_the_slice_of_all_sandboxes() -> None:
    assert unit_name(VmId("i1")) == "cube-vm-i1.scope"
    assert properties(Limits(1, 1, 1))["Slice"] == "cube-vms.slice"
    assert properties(Limits(1, 1, 1))["PIDs"] == [4711]


def test_limits_are_in_the_units_of_systemd() -> None:
    unit = properties(Limits(memory_mib=768, cpu_percent=150, tasks=99))
    assert unit["MemoryMax"] == 768 * 2**20
    assert unit["CPUQuotaPerSecUSec"] == 1_500_000
    assert unit["TasksMax"] == 99


def test_limits_leave_room_for_the_vmm_itself() -> None:
    limits = Limits.of(SPEC)
    assert limits.memory_mib > SPEC.memory_mib
    assert limits.cpu_percent == 200
    assert limits.tasks > SPEC.vcpus
    assert Limits.of(replace(SPEC, memory_mib=1024)).memory_mib - limits.memory_mib == 512


def test_scopes_are_systemds_where_systemd_runs(tmp_path: Path) -> None:
    assert isinstance(choose_scopes(tmp_path), SystemdScopes)
    assert isinstance(choose_scopes(tmp_path / "absent"), SessionScopes)
