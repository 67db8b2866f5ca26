from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hypervisor.base import Accelerator
from appliance.hypervisor.qemu.machine import cpu_model
from image_build.errors import MalformedPin
from image_build.pins import Deb, format_debs, parse_debs, read_debs, read_versions

GUEST_IMAGE = Path(__file__).parents[3] / "guest-image"
SHA = "0" * 64

debs = st.lists(
    st.builds(
        Deb,
        name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True),
        version=st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,20}", fullmatch=True),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    )
)


@given(debs)
def test_a_lock_is_read_as_it_was_written(written: list[Deb]) -> None:
    assert parse_debs(format_debs(written), source="lock") == tuple(sorted(written))


@pytest.mark.parametrize(
    "line", ["libc6", f"libc6 2.36 {SHA}", "libc6=2.36", f"libc6=2.36 {SHA[:-1]}", f"-c6=2.36 {SHA}", f"a=1 {SHA} b"]
)
def test_a_line_that_is_no_pin_is_an_error(line: str) -> None:
    with pytest.raises(MalformedPin, match="expected `name=version sha256`"):
        parse_debs(f"# comment\n{line}\n", source="lock")


@pytest.mark.parametrize("name", ["kernel", "agent", "base", "code-interpreter", "tests"])
def test_every_package_that_is_wanted_is_locked(name: str) -> None:
    wanted = read_versions((GUEST_IMAGE / "versions.toml").read_text())
    packages = {
        "kernel": wanted.kernel_packages,
        "agent": wanted.agent_packages,
        "base": wanted.base_packages,
        "code-interpreter": wanted.code_interpreter.packages,
        "tests": wanted.test_packages,
    }[name]
    locked = {deb.name for deb in read_debs(GUEST_IMAGE / "locks" / f"{name}.lock")}
    assert set(packages) <= locked


def test_the_boot_contract_names_the_processor_that_the_driver_asks_for() -> None:
    machine = read_versions((GUEST_IMAGE / "versions.toml").read_text()).machine
    assert machine.cpu_tcg == cpu_model(Accelerator.TCG)
    assert machine.cpu_kvm == cpu_model(Accelerator.KVM)


def test_the_command_line_holds_what_the_guest_cannot_do_without() -> None:
    machine = read_versions((GUEST_IMAGE / "versions.toml").read_text()).machine
    words = machine.cmdline.split()
    # Where errors go; that a panic ends the VMM; that a restore's jump in time does not cost the guest its clock.
    assert {"console=ttyS0", "panic=-1", "tsc=reliable"} <= set(words)
    assert "{tsc_khz}" in machine.cmdline_tcg
