"""The guest's kernel and initramfs, out of Debian's kernel package."""

from __future__ import annotations

from pathlib import Path

from image_build import cpio, kernel_modules

MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "squashfs", "overlay")
"""What a guest needs to reach its disks and its network. ext4 is part of the kernel."""


def initramfs(package_root: Path, boot_program: bytes) -> bytes:
    """Return the initramfs: /init, and the modules with the list that says in which order to load them."""
    paths, builtin = _modules(package_root)
    order = kernel_modules.load_order(
        MODULES,
        frozenset(paths),
        builtin,
        needs=lambda name: kernel_modules.dependencies(paths[name].read_bytes()),
    )
    listed = "".join(f"/modules/{name}.ko\n" for name in order)
    return cpio.archive(
        [
            cpio.file("init", boot_program, executable=True),
            cpio.directory("modules"),
            cpio.file("modules/order", listed.encode()),
            *(cpio.file(f"modules/{name}.ko", paths[name].read_bytes()) for name in order),
        ]
    )


def vmlinuz(package_root: Path) -> bytes:
    return _only(package_root / "boot", "vmlinuz-*").read_bytes()


def _modules(package_root: Path) -> tuple[dict[str, Path], frozenset[str]]:
    tree = _only(package_root / "lib/modules", "*")
    paths = {kernel_modules.module_name(path.name): path for path in sorted(tree.rglob("*.ko"))}
    return paths, kernel_modules.parse_builtin((tree / "modules.builtin").read_text())


def _only(directory: Path, pattern: str) -> Path:
    """Return the one path that matches: a kernel package holds one kernel."""
    (path,) = directory.glob(pattern)
    return path
