"""Settings of Cubelet, from `/etc/cube/cubelet.toml`. Durations are seconds, sizes MiB."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from appliance.common.settings import Settings

RegistryHost = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]


class NetworkSettings(Settings):
    """What CubeVS needs to know of this node."""

    sandbox_network: IPv4Network = IPv4Network("10.88.0.0/16")
    dns_address: IPv4Address | None = IPv4Address("10.88.0.1")
    """Resolver that guests reach as their gateway, port 53. None: they have no DNS."""
    denied_networks: tuple[IPv4Network, ...] = (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("172.16.0.0/12"),
        IPv4Network("192.168.0.0/16"),
        IPv4Network("100.64.0.0/10"),
    )
    """Private networks no guest reaches, whatever its policy. Metadata services are denied besides, always."""

    @property
    def node_address(self) -> IPv4Address:
        """The node's own address on the sandbox network: its first."""
        return self.sandbox_network[1]

    bpffs: Path = Path("/run/cube/bpf")
    egress_rules: Path = Path("/run/cube/egress")
    """Where the egress proxy finds what each sandbox may reach by domain."""
    spare_taps: int = Field(default=8, ge=0)


class PoolSettings(Settings):
    per_template: int = Field(default=4, ge=0)
    """Restored VMs kept waiting for each template; 0 makes every create clone on demand."""
    total: int = Field(default=16, ge=0)


class CapacitySettings(Settings):
    vcpu_overcommit: float = Field(default=16.0, gt=0)
    """Sandboxes are mostly idle: processors promised, as a multiple of those there are."""
    memory_mib: int | None = Field(default=None, gt=0)
    """Memory that may be promised to sandboxes. Default: three quarters of the node's."""
    disk_reserve_mib: int = Field(default=2048, ge=0)
    """Free disk below which the node takes no new sandbox or build."""
    step_cache_mib: int = Field(default=10240, ge=0)
    """Disk for what steps of template builds left, so that the next build need not run them again; 0 keeps nothing."""


class VolumeSettings(Settings):
    """Disks that outlive sandboxes."""

    size_mib: int = Field(default=10240, ge=64)
    """Of every volume: it costs what is written on it. Templates have slots of that size, and of no other."""
    served: int = Field(default=4, ge=1)
    """Volumes without a sandbox whose content is served at a time, by a machine each."""
    served_idle_s: float = Field(default=60, gt=0)
    """Such a machine ends after this long without a call."""
    server_memory_mib: int = Field(default=256, ge=192)


class LogSettings(Settings):
    """What is kept of what sandboxes say."""

    per_sandbox_kib: int = Field(default=2048, ge=64)
    """The oldest half goes when a sandbox has said more."""
    total_mib: int = Field(default=512, ge=1)
    """Beyond this, the logs of sandboxes that ended first are deleted early."""
    keep_ended_h: float = Field(default=24, gt=0)
    """For how long after its end a sandbox's log can be read."""


class DeadlineSettings(Settings):
    """How long each step may take, in seconds. TCG is some 30 times slower than KVM; these hold for both."""

    boot_s: float = 120
    restore_s: float = 20
    init_s: float = 20
    ready_s: float = 600
    image_s: float = 1800
    save_s: float = 240
    """Writing what a sandbox has changed of its RAM, which depends on the disk."""
    flush_s: float = 60
    """A guest's writing of its files to its disk, where that alone is kept."""
    self_test_s: float = 60
    step_s: float = 3600
    """One step of a template build."""
    build_s: float = 7200
    """A whole build: the next one waits for it."""
    content_idle_s: float = 120
    """How long an upload to a volume, or a download from it, may stand still."""
    kvm_probe_s: float = 5
    """A KVM that has not booted the guest kernel by then counts as unusable."""
    tcg_probe_s: float = 60


class CubeletSettings(Settings):
    node_id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    socket: Path = Path("/run/cube/cubelet/api.sock")
    master: str = "unix:///run/cube/cube-master/api.sock"
    endpoint: str = "unix:///run/cube/cubelet/api.sock"
    """How CubeMaster reaches this node."""
    data_dir: Path = Path("/var/lib/cube")
    run_dir: Path = Path("/run/cube/vm")
    guest_dir: Path = Path("/opt/cube/guest/current")
    """Kernel, initramfs, agent disk and manifest of the guest image."""
    qemu: Path = Path("/usr/bin/qemu-system-x86_64")
    vmm_uid_base: int = Field(default=100_000, ge=1000)
    restore_concurrency: int = Field(default=3, ge=1)
    heartbeat_s: float = Field(default=2.0, gt=0)
    sample_interval_s: float = Field(default=5.0, gt=0)
    """How often each running guest is asked what it uses. E2B's clients expect 5."""
    pause_retry_s: float = Field(default=2.0, gt=0)
    """A pause at the end of a sandbox's time that fails is tried again after this long, twice."""
    internal_registries: tuple[RegistryHost, ...] = ()
    """`host[:port]` of registries that images are pulled from though their addresses are not public."""
    failpoints: Path | None = None
    """File by which a test makes this process fail at a given step. For tests alone."""
    log_level: str = "info"
    network: NetworkSettings = NetworkSettings()
    pool: PoolSettings = PoolSettings()
    capacity: CapacitySettings = CapacitySettings()
    volumes: VolumeSettings = VolumeSettings()
    logs: LogSettings = LogSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
