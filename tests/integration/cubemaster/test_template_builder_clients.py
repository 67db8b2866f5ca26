"""Older and other template builders over real HTTP: released clients, unmodified, on the whole control plane."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest

from tests.integration.cubemaster.conftest import Appliance, RunProgram
from tests.support.fake_builder import FakeBuilder
from tests.support.sdk_node import sdk_modules
from tests.support.sdk_venv import sdk_python

_PYTHON = """
import json, pathlib, traceback
from e2b import BuildException, Template

pathlib.Path("file").write_text("x")
template = Template().from_base_image().copy("file", "/file").run_cmd("ls", user="root")
logs = []
Template.build(template, alias="app", cpu_count=1, memory_mb=256, on_build_logs=logs.append)
template = Template().from_image("python:3").run_cmd("ls").run_cmd("exit 3")
try:
    Template.build(template, alias="bad", cpu_count=1, memory_mb=256)
except BuildException as error:
    failure = str(error)
print(json.dumps({"logs": [entry.message for entry in logs], "failure": failure}))
"""

_JAVASCRIPT = """
import { writeFileSync } from "node:fs"
import { Template, BuildError } from "e2b"

writeFileSync("file", "x")
const logs = []
const template = Template().fromBaseImage().copy("file", "/file").runCmd("ls", { user: "root" })
const options = { alias: "app", cpuCount: 1, memoryMB: 256 }
await Template.build(template, { ...options, onBuildLogs: (entry) => logs.push(entry.message) })
let failure
try {
  await Template.build(Template().fromImage("node:24").runCmd("ls").runCmd("exit 3"), { ...options, alias: "bad" })
} catch (error) {
  if (!(error instanceof BuildError)) throw error
  failure = error.message
}
console.log(JSON.stringify({ logs, failure }))
"""


def _check(appliance: Appliance, builder: FakeBuilder, answer: dict[str, object]) -> None:
    logs = answer["logs"]
    assert isinstance(logs, list)
    told = [message for message in logs if message.startswith(("[builder", "the template"))]
    assert told == ["[builder 1/2] COPY file", "[builder 2/2] RUN ls", "the template is ready"]
    assert "exit status 3" in str(answer["failure"])
    assert list(builder.unpacked.values()) == [["file"]]
    (built,) = [one for one in appliance.node.builds.values() if one.from_build]
    assert (built.vcpus, built.memory_mib) == (1, 256)


@pytest.mark.parametrize("version", ["2.10.0", "2.31.0"])
async def test_older_python_builders(
    appliance: Appliance, builder: FakeBuilder, run_program: RunProgram, tmp_path: Path, version: str
) -> None:
    python = await asyncio.to_thread(sdk_python, f"e2b=={version}")
    program = tmp_path / "program.py"
    program.write_text(_PYTHON)
    _check(appliance, builder, await run_program(python, program, cwd=tmp_path))


@pytest.mark.parametrize("version", ["2.51.0"])
async def test_javascript_builders(
    appliance: Appliance, builder: FakeBuilder, run_program: RunProgram, tmp_path: Path, version: str
) -> None:
    modules = await asyncio.to_thread(sdk_modules, f"e2b@{version}")
    (tmp_path / "node_modules").symlink_to(modules / "node_modules")
    program = tmp_path / "program.mjs"
    program.write_text(textwrap.dedent(_JAVASCRIPT))
    _check(appliance, builder, await run_program("node", program, cwd=tmp_path))
