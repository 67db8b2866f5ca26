"""Disks that outlive the machine: their mounts, and E2B's content API to what is on them."""
