"""Records against the node: each difference has one answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from appliance.contracts.node import EndReason
from appliance.cubelet.recovery import Observed, reconcile, vmm_pids
from appliance.cubelet.runtime import SandboxRecord, Stage, Unreadable, VmRecord
from appliance.cubevs.base import Tap
from appliance.domain.ids import BuildId, SandboxId, TemplateId, VmId
from appliance.hypervisor.base import VmProcess

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOOT = "this-boot"


def record(name: str, stage: Stage, *, tap: int = 1, boot: str = BOOT) -> VmRecord:
    vm_id = VmId(name)
    return VmRecord(
        vm_id=vm_id,
        template_id=TemplateId("t"),
        build_id=BuildId("b"),
        envd_version="0.6.13",
        tap_name=f"cubetap{tap}",
        tap_ifindex=10 + tap,
        address=IPv4Address("10.88.0.1") + tap,
        boot_id=boot,
        stage=stage,
        process=VmProcess(vm_id, 1000 + tap, 1, "/usr/bin/qemu", f"/run/{name}/qmp", f"/run/{name}"),
        sandbox=SandboxRecord(sandbox_id=SandboxId("i" + name), started_at=NOW, end_at=NOW, pooled=False)
        if stage not in (Stage.PREPARING, Stage.WAITING)
        else None,
    )


def tap(number: int) -> Tap:
    return Tap(f"cubetap{number}", 10 + number, IPv4Address("10.88.0.1") + number)


def observed(*alive: str) -> Observed:
    return Observed(
        boot_id=BOOT,
        alive={VmId(name) for name in alive},
        vmm_pids={},
        taps=(),
        runtime_dirs=frozenset(),
        builds={BuildId("b")},
    )


def test_a_running_sandbox_goes_on() -> None:
    running = record("v1", Stage.RUNNING)
    plan = reconcile([running], observed("v1"))
    assert plan.adopt == (running,)
    assert plan.leaks == 0


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (record("v1", Stage.RUNNING), EndReason.VMM_DIED),
        (record("v1", Stage.RUNNING, boot="an-earlier-boot"), EndReason.NODE_REBOOTED),
        (record("v1", Stage.CREATING), EndReason.FAILED_START),
        (record("v1", Stage.ENDING).model_copy(update={"end_reason": EndReason.TIMEOUT}), EndReason.TIMEOUT),
    ],
)
def test_a_sandbox_that_ended_meanwhile_has_its_reason(there: VmRecord, reason: EndReason) -> None:
    plan = reconcile([there], observed())
    assert [(one.vm_id, why) for one, why, _ in plan.end] == [("v1", reason)]
    assert plan.adopt == ()


@pytest.mark.parametrize("newer_first", [True, False])
@pytest.mark.parametrize("alive", [("v1", "v2"), ("v2",)])
def test_of_two_machines_of_one_sandbox_the_newer_one_is_it(alive: tuple[str, ...], newer_first: bool) -> None:
    older, newer = record("v1", Stage.RUNNING), record("v2", Stage.RUNNING, tap=2)
    newer = newer.model_copy(update={"sandbox": older.sandbox, "generation": older.generation + 1})
    other = record("v3", Stage.RUNNING, tap=3)
    there = [newer, older] if newer_first else [older, newer]
    seen = replace(observed(*alive, "v3"), vmm_pids={VmId("v1"): (1001,), VmId("v2"): (1002,), VmId("v3"): (1003,)})
    plan = reconcile([*there, other], seen)
    assert plan.adopt == (newer, other)
    assert plan.destroy == (older,)
    assert plan.stray_pids == (1001,)
    assert plan.end == ()


def test_a_sandbox_whose_newer_machine_ended_has_ended_once() -> None:
    older, newer = record("v1", Stage.RUNNING), record("v2", Stage.ENDING, tap=2)
    newer = newer.model_copy(update={"sandbox": older.sandbox, "generation": 1, "end_reason": EndReason.TIMEOUT})
    plan = reconcile([older, newer], observed("v1", "v2"))
    assert [(one.vm_id, why) for one, why, _ in plan.end] == [("v2", EndReason.TIMEOUT)]
    assert plan.destroy == (older,)
    assert plan.adopt == ()


@pytest.mark.parametrize("boot", [BOOT, "an-earlier-boot"])
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("stage", [Stage.PAUSING, Stage.PAUSED, Stage.RESUMING])
def test_what_has_been_saved_is_paused_whatever_became_of_the_vm(stage: Stage, alive: bool, boot: str) -> None:
    there = record("v1", stage, boot=boot)
    seen = replace(observed(*["v1"] * alive), saved={VmId("v1")}, vmm_pids={VmId("v1"): (1001,)})
    plan = reconcile([there], seen)
    assert plan.paused == (there,)
    assert (plan.adopt, plan.end, plan.destroy) == ((), (), ())
    assert plan.stray_pids == (1001,), "what is left of its VM is ended"


def test_a_pause_that_had_not_saved_yet_leaves_the_sandbox_running() -> None:
    pausing = record("v1", Stage.PAUSING)
    assert reconcile([pausing], observed("v1")).adopt == (pausing,)


def test_a_tap_that_a_record_of_an_earlier_boot_names_is_free() -> None:
    seen = replace(observed(), saved={VmId("v1")}, taps=(tap(1),))
    assert reconcile([record("v1", Stage.RESUMING, tap=1, boot="an-earlier-boot")], seen).free_taps == (tap(1),)


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (record("v1", Stage.PAUSING), EndReason.VMM_DIED),
        (record("v1", Stage.PAUSING, boot="an-earlier-boot"), EndReason.NODE_REBOOTED),
        (record("v1", Stage.PAUSED), EndReason.VMM_DIED),
        (record("v1", Stage.RESUMING), EndReason.VMM_DIED),
    ],
)
def test_a_sandbox_of_which_nothing_is_left_has_ended(there: VmRecord, reason: EndReason) -> None:
    plan = reconcile([there], observed())
    assert [(one.vm_id, why) for one, why, _ in plan.end] == [("v1", reason)]
    assert plan.paused == ()


def test_a_process_of_an_earlier_boot_is_never_adopted() -> None:
    plan = reconcile([record("v1", Stage.RUNNING, boot="an-earlier-boot")], observed("v1"))
    assert plan.adopt == ()


def test_waiting_vms_are_kept_only_for_templates_that_exist() -> None:
    waiting = record("v1", Stage.WAITING)
    assert reconcile([waiting], observed("v1")).adopt_waiting == (waiting,)
    without = replace(observed("v1"), builds=frozenset[BuildId]())
    assert reconcile([waiting], without).destroy == (waiting,)


def test_what_belongs_to_nobody_is_destroyed() -> None:
    preparing = record("v1", Stage.PREPARING)
    plan = reconcile([preparing], observed("v1"))
    assert plan.destroy == (preparing,)
    assert plan.leaks == 1


def test_unrecorded_processes_and_directories_are_strays_and_unused_taps_are_free() -> None:
    running = record("v1", Stage.RUNNING, tap=1)
    seen = replace(
        observed("v1"),
        vmm_pids={VmId("v1"): (1001,), VmId("v9"): (77, 78)},
        runtime_dirs={VmId("v1"), VmId("v9")},
        taps=(tap(1), tap(2)),
    )
    plan = reconcile([running], seen)
    assert plan.stray_pids == (77, 78)
    assert plan.stray_dirs == ("v9",)
    assert plan.free_taps == (tap(2),)


def test_nothing_is_done_to_what_an_unreadable_record_may_describe() -> None:
    seen = replace(
        observed(),
        vmm_pids={VmId("v1"): (1001,), VmId("v9"): (77,)},
        runtime_dirs={VmId("v1"), VmId("v9")},
        taps=(tap(1), tap(2)),
    )
    plan = reconcile([], seen, [Unreadable(VmId("v1"), "cubetap1")])
    assert (plan.stray_pids, plan.stray_dirs, plan.free_taps) == ((77,), ("v9",), (tap(2),))


def test_a_second_process_of_an_adopted_vm_is_a_stray() -> None:
    seen = replace(observed("v1"), vmm_pids={VmId("v1"): (1001, 2002)})
    assert reconcile([record("v1", Stage.RUNNING)], seen).stray_pids == (2002,)


def test_vmm_processes_are_found_by_the_guests_name(tmp_path: Path) -> None:
    for pid, command in {
        "41": b"/usr/bin/qemu\0-name\0guest=vaa\0-S\0",
        "42": b"setpriv\0--\0/usr/bin/qemu\0-name\0guest=vaa\0",
        "43": b"/usr/bin/qemu\0-name\0guest=vaaa\0",
        "44": b"grep\0-r\0guest=\0",
        "self": b"/usr/bin/qemu\0-name\0guest=vbb\0",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(command)
    found = vmm_pids({VmId("vaa"), VmId("vbb")}, tmp_path)
    assert {vm: sorted(pids) for vm, pids in found.items()} == {"vaa": [41, 42]}
