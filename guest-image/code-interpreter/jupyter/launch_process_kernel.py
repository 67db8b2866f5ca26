"""Runs a kernel of process_kernel, without a PYTHONPATH that the user's code would inherit."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
runpy.run_module("process_kernel", run_name="__main__")
