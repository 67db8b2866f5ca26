"""Starts a kernel: `launch.py <connection file> <language>`, as its kernelspec says."""

import asyncio
import json
import sys
from pathlib import Path

from process_kernel.kernel import ProcessKernel
from process_kernel.languages import LANGUAGES
from process_kernel.wire import Connection


def main() -> None:
    connection_file, language = sys.argv[1:]
    connection = Connection.from_file(json.loads(Path(connection_file).read_text()))
    asyncio.run(ProcessKernel(connection, LANGUAGES[language]).run())


if __name__ == "__main__":
    main()
