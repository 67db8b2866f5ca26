from __future__ import annotations

import pytest

from image_build.kernel_modules import UnknownModule, dependencies, load_order, module_name, parse_builtin

NEEDS = {
    "virtio_net": ("net_failover", "virtio", "virtio_ring"),
    "net_failover": ("failover",),
    "failover": (),
    "virtio": ("virtio_ring",),
    "virtio_ring": (),
    "cyclic_free": ("crc16",),
}


def order(*wanted: str) -> tuple[str, ...]:
    return load_order(wanted, frozenset(NEEDS), frozenset({"ext4", "crc16"}), NEEDS.__getitem__)


def test_a_module_comes_after_all_it_depends_on() -> None:
    loaded = order("virtio_net", "virtio")
    assert sorted(loaded) == ["failover", "net_failover", "virtio", "virtio_net", "virtio_ring"]
    for module in loaded:
        assert all(loaded.index(needed) < loaded.index(module) for needed in NEEDS[module])


def test_what_is_part_of_the_kernel_is_not_loaded() -> None:
    assert order("ext4", "cyclic_free") == ("cyclic_free",)


def test_a_module_the_kernel_does_not_have_is_an_error() -> None:
    with pytest.raises(UnknownModule, match="no module vsock"):
        order("vsock")


@pytest.mark.parametrize(
    ("modinfo", "expected"),
    [
        (b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0retpoline=Y\0", ("virtio", "virtio_ring")),
        (b"\x7fELF\0license=GPL\0depends=\0retpoline=Y\0", ()),
        (b"\x7fELF no section", ()),
    ],
)
def test_dependencies_are_read_from_the_module_itself(modinfo: bytes, expected: tuple[str, ...]) -> None:
    assert dependencies(modinfo) == expected


def test_names_are_what_the_kernel_calls_modules() -> None:
    assert module_name("kernel/drivers/net/virtio-net.ko.xz") == "virtio_net"
    assert parse_builtin("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-ccitt.ko\n") == {"ext4", "crc_ccitt"}
