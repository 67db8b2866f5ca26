from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.base import Accelerator, Hypervisor
from appliance.hypervisor.fake import FakeHost, FakeHypervisor
from appliance.hypervisor.probe import choose_accelerator
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.session import SessionScopes
from tests.support.hypervisors import PATIENCE, FakeHarness, QemuHarness


def qemu(accelerator: Accelerator) -> Hypervisor:
    return QemuHypervisor(accelerator=accelerator, scopes=SessionScopes())


def fake(host: FakeHost) -> Callable[[Accelerator], Hypervisor]:
    return lambda _: FakeHypervisor(host)


@pytest.mark.guest
async def test_guest_kernel_runs_under_tcg(harness: QemuHarness, tmp_path: Path) -> None:
    choice = await choose_accelerator(qemu, harness.source, deadlines={Accelerator.TCG: PATIENCE}, scratch=tmp_path)
    assert choice.accelerator is Accelerator.TCG
    assert choice.attempts[-1].failure is None
    assert list(tmp_path.glob("cube-probe-*")) == []  # noqa: ASYNC240 - a directory of one test


@pytest.mark.guest
async def test_accelerator_that_is_too_slow_is_refused_and_leaves_nothing(harness: QemuHarness, tmp_path: Path) -> None:
    # No guest is up so soon: the same as a KVM under which the guest crawls.
    deadlines = {Accelerator.TCG: timedelta(milliseconds=200)}
    with pytest.raises(VmmFailure, match=r"tcg: the boot of a guest kernel with tcg did not finish within 0\.2 s"):
        await choose_accelerator(qemu, harness.source, deadlines=deadlines, scratch=tmp_path)
    assert list(tmp_path.glob("cube-probe-*")) == []  # noqa: ASYNC240 - a directory of one test


async def test_each_accelerator_is_tried_once_and_its_failure_told(tmp_path: Path) -> None:
    harness, host = FakeHarness(tmp_path), FakeHost()
    host.fail_next("boot", times=2)
    deadlines = dict.fromkeys((Accelerator.TCG,), PATIENCE)
    for _ in range(2):
        with pytest.raises(VmmFailure, match="tcg: boot was made to fail"):
            await choose_accelerator(fake(host), harness.source, deadlines=deadlines, scratch=tmp_path)
    assert host.machines == {}
