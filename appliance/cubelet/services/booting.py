"""Machines that begin with their kernel: those of builds, and sandboxes of which the disk alone was kept."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from appliance.clients.guest import GuestClient
from appliance.cubelet.guest_image import GuestImage
from appliance.cubevs.base import GUEST_MAC, Switch, Tap
from appliance.hypervisor.base import BootSource, Hypervisor, Nic, Snapshot, VmProcess, VmSpec
from appliance.hypervisor.lifetime import while_alive


class Boots:
    def __init__(
        self, *, hypervisor: Hypervisor, switch: Switch, guest_image: GuestImage, boot_deadline: timedelta
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._guest_image = guest_image
        self._boot_deadline = boot_deadline

    async def boot(self, spec: VmSpec, tap: Tap) -> VmProcess:
        """Start a machine from this node's kernel, behind `tap`, and let it run."""
        tap_fd = self._switch.open_tap(tap)
        try:
            return await self._hypervisor.boot(
                replace(spec, nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC)),
                BootSource(
                    kernel=self._guest_image.kernel,
                    initramfs=self._guest_image.initramfs,
                    cmdline=self._guest_image.cmdline,
                ),
                deadline=self._boot_deadline,
            )
        finally:
            os.close(tap_fd)

    async def base(self, spec: VmSpec, tap: Tap, directory: Path) -> Snapshot:
        """Boot a machine until its agent answers, and stop it: what is left in `directory` can be cloned.

        So a booted sandbox is a clone, too, of a template of its own, and all that clones can do it can. Nobody has
        told its guest anything by then, so there is no secret in the RAM that is based on it.
        """
        async with AsyncExitStack() as stack:
            vm = await self.boot(spec, tap)
            stack.push_async_callback(self._hypervisor.stop, vm)
            guest = GuestClient(tap.address)
            stack.push_async_callback(guest.close)
            await while_alive(self._hypervisor, vm, guest.wait_healthy(deadline=self._boot_deadline))
            return await self._hypervisor.snapshot(vm, directory, deadline=self._boot_deadline)
