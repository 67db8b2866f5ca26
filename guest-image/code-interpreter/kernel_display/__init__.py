"""IPython extension of the sandbox's Python kernels: values shown as data and charts, not only as text.

It runs in the user's process beside any version of any library. So it imports none of them: each is met only
once the user has imported it.
"""

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython when the kernel starts."""
    # The package itself is imported before IPython is set up.
    from kernel_display.extension import install  # noqa: PLC0415

    install(shell)
