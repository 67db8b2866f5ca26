"""Starts the kernel: `launch.py <connection file>`, as its kernelspec says."""

import asyncio
import json
import sys
from pathlib import Path

from javascript_kernel.kernel import JavaScriptKernel
from javascript_kernel.wire import Connection


def main() -> None:
    connection = Connection.from_file(json.loads(Path(sys.argv[1]).read_text()))
    asyncio.run(JavaScriptKernel(connection).run())


if __name__ == "__main__":
    main()
