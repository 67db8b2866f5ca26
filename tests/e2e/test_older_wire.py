"""SDKs that teams have pinned: the generation before `POST /v2/sandboxes`."""

from __future__ import annotations

import subprocess

import pytest

from lab.appliance import Appliance, inside_lab
from tests.support.sdk_venv import sdk_python

pytestmark = pytest.mark.lab

PROGRAM = """
import e2b
from e2b import Sandbox

sandbox = Sandbox.create(template="base", timeout=120, metadata={"who": "an older SDK"}, envs={"GREETING": "hello"})
try:
    print(sandbox.commands.run("echo $GREETING").stdout.strip())
    sandbox.files.write("/home/user/a/b.txt", "written")
    print(sandbox.files.read("/home/user/a/b.txt"))
    again = Sandbox.connect(sandbox.sandbox_id)
    print(again.commands.run("cat a/b.txt").stdout.strip())
    print([one.metadata for one in Sandbox.list().next_items() if one.sandbox_id == sandbox.sandbox_id])
    sandbox.set_timeout(60)
    print(sandbox.is_running())
finally:
    print(sandbox.kill())
"""


@pytest.mark.parametrize("version", ["2.31.0"])
def test_an_older_sdk_works_unmodified(appliance: Appliance, version: str) -> None:
    done = subprocess.run(
        inside_lab([sdk_python(f"e2b=={version}"), "-c", PROGRAM]),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **appliance.client_environment()},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "hello",
        "written",
        "written",
        "[{'who': 'an older SDK'}]",
        "True",
        "True",
    ]
