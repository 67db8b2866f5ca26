"""Run code in a sandbox of this appliance through the unmodified E2B SDKs.

Needs E2B_API_KEY, and either E2B_DOMAIN (with SSL_CERT_FILE for a private CA) or E2B_API_URL and E2B_SANDBOX_URL.
"""

import platform

from e2b_code_interpreter import Sandbox

with Sandbox.create(timeout=120) as sandbox:
    execution = sandbox.run_code("print('hello')")
    print("".join(execution.logs.stdout).strip())

    kernel = sandbox.commands.run("uname -r").stdout.strip()
    print(f"guest kernel {kernel}, host kernel {platform.release()}")
    if kernel == platform.release():
        raise SystemExit("the sandbox runs on the host's kernel: this is no microVM")

    sandbox.files.write("/tmp/notes.txt", "written by the SDK")
    print(sandbox.commands.run("cat /tmp/notes.txt").stdout)
