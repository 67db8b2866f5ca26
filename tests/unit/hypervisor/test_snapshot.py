from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.ids import VmId
from appliance.hypervisor.base import Snapshot, VmSpec

SNAPSHOT = Snapshot(Path("memory"), Path("state"), machine="qemu-10/tcg", vcpus=2, memory_mib=512)
SPEC = VmSpec(VmId("vm"), 2, 512, Path("unused"), (), None, Path("run"), None)


def test_clone_of_the_same_machine_is_accepted() -> None:
    assert SNAPSHOT.objection(SPEC, "qemu-10/tcg") is None


@pytest.mark.parametrize("spec", [replace(SPEC, vcpus=1), replace(SPEC, memory_mib=1024)])
def test_clone_of_another_size_is_refused(spec: VmSpec) -> None:
    objection = SNAPSHOT.objection(spec, "qemu-10/tcg")
    assert objection is not None
    assert "2 vCPU and 512 MiB" in objection


def test_another_machine_is_refused_with_both_names() -> None:
    objection = SNAPSHOT.objection(SPEC, "qemu-11/kvm")
    assert objection is not None
    assert "qemu-10/tcg" in objection
    assert "qemu-11/kvm" in objection
