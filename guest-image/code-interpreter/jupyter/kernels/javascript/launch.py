"""Runs the JavaScript kernel from the folder that this file lies in, without a PYTHONPATH that Node would inherit."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
runpy.run_module("javascript_kernel", run_name="__main__")
