"""New random numbers for a process that was copied while it ran."""

import os
import sys


def renew() -> None:
    """Seed again what was seeded before the snapshot that this sandbox was made from.

    Only generators that the process has loaded can have been seeded; `os.urandom` is the kernel's affair.
    """
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(48), 48.0)
