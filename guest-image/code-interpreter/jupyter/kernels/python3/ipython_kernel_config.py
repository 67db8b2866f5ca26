"""Configuration of the Python kernels: plain text for programs to read, and the sandbox's own display of values."""

import sys
from pathlib import Path

c = get_config()  # type: ignore[name-defined]  # noqa: F821

# Imported here rather than found on the path later, so that sys.path stays what the user's python3 has.
_root = str(Path(__file__).resolve().parents[3])
sys.path.insert(0, _root)
import kernel_display  # noqa: E402, F401

sys.path.remove(_root)

c.IPKernelApp.extensions = ["kernel_display"]
c.InteractiveShell.colors = "NoColor"
c.PlainTextFormatter.max_seq_length = 0
c.HistoryManager.enabled = False  # nobody reads a history file, and it costs a thread and a database
