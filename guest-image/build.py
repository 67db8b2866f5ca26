#!/usr/bin/env python3
"""Build the guest: `guest-image/build.py --help`. Needs Python 3.11 and nothing from PyPI."""

import sys
from pathlib import Path

from image_build.cli import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
