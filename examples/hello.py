"""Run Python in a sandbox of your own: its kernel is not this machine's.

The unmodified E2B SDK finds the appliance by its environment: E2B_API_KEY, and E2B_DOMAIN (with SSL_CERT_FILE, the
appliance's certificate authority) or, on the machine itself, E2B_API_URL and E2B_SANDBOX_URL.
"""

import platform

from e2b_code_interpreter import Sandbox

with Sandbox.create(template="code-interpreter-v1", timeout=60) as sandbox:
    execution = sandbox.run_code("import platform; print('hello from', platform.release())")
    print("".join(execution.logs.stdout).strip(), f"(this machine runs {platform.release()})")

    print(sandbox.commands.run("uname -a").stdout.strip())
    sandbox.files.write("/home/user/note.txt", "written by the SDK\n")
    print(sandbox.files.read("/home/user/note.txt").strip())
