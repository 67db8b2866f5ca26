from __future__ import annotations

import pytest

from guest_agent.identity.entropy import pool_info, reseed


def test_the_kernels_struct() -> None:
    assert pool_info(b"\1\2\3\4") == b"\x20\0\0\0" + b"\4\0\0\0" + b"\1\2\3\4"


@pytest.mark.root
def test_the_kernel_takes_it() -> None:
    reseed(bytes(range(64)))


def test_a_device_that_is_no_random_source_is_an_error() -> None:
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        reseed(b"1234", "/dev/null")
