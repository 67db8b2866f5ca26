#!/usr/bin/env python3
"""Inventory of the lab: CUBE_LAB_MACHINES machines (default 1) on the lab's own bridge.

The first machine carries the control plane; every machine is a node that runs sandboxes.
"""

import json
import os
import sys

FIRST_ADDRESS = 11
"""cube-1 is 198.18.0.11, from the range that RFC 2544 sets aside for test benches."""

MAX_MACHINES = 9

CONTROL_GROUPS = ("mysql", "redis", "cubemaster", "cubeapi", "mkcert", "coredns", "cubeproxy")
NODE_GROUPS = ("lab_machine", "base", "guest_image", "hypervisor", "cubevs", "cubelet")


def inventory(count: int) -> dict[str, object]:
    """Ansible's inventory document for `count` machines."""
    machines = {f"cube-{n}": f"198.18.0.{FIRST_ADDRESS - 1 + n}" for n in range(1, count + 1)}
    groups: dict[str, object] = {group: {"hosts": ["cube-1"]} for group in CONTROL_GROUPS}
    groups |= {group: {"hosts": list(machines)} for group in NODE_GROUPS}
    return {"_meta": {"hostvars": {name: {"ansible_host": address} for name, address in machines.items()}}, **groups}


def main() -> None:
    """Print the inventory; Ansible calls this with `--list`."""
    count = int(os.environ.get("CUBE_LAB_MACHINES", "1"))
    if not 1 <= count <= MAX_MACHINES:
        sys.exit(f"CUBE_LAB_MACHINES must be between 1 and {MAX_MACHINES}, not {count}")
    json.dump(inventory(count), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
