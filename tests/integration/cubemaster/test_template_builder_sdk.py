"""The unmodified SDK's template builder over real HTTP. The node's part is played: see `FakeBuilder`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cubemaster.conftest import Appliance, RunProgram
from tests.support.fake_builder import FakeBuilder

Ask = Callable[[str], Awaitable[dict[str, Any]]]


@pytest.fixture
def ask(run_program: RunProgram, builder: FakeBuilder, tmp_path: Path) -> Ask:
    """Run a user's Python program in a directory of its own, and return the JSON object it prints."""

    async def run(code: str) -> dict[str, Any]:
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(code))
        return await run_program(sys.executable, program, cwd=tmp_path)

    return run


async def test_a_build_copies_runs_and_takes_its_tags(appliance: Appliance, builder: FakeBuilder, ask: Ask) -> None:
    answer = await ask(
        """
        import json, pathlib
        from e2b import Template

        pathlib.Path("src").mkdir()
        pathlib.Path("src/app.py").write_text("print('hello')")
        pathlib.Path("big.bin").write_bytes(bytes(range(256)) * 8000)
        template = (
            Template()
            .from_base_image()
            .copy("src", "/app", mode=0o755)
            .copy("big.bin", "/app/big.bin", gzip=False)
            .set_envs({"KEY": "value"})
            .run_cmd("pip install requests", user="root")
            .set_workdir("/app")
            .set_user("user")
            .set_start_cmd("python app.py", "sleep 1")
        )
        def build(**options):
            logs = []
            info = Template.build(template, "app:v1", cpu_count=1, memory_mb=256, on_build_logs=logs.append, **options)
            return {"id": info.template_id, "build": info.build_id, "tags": info.tags,
                    "logs": [entry.message for entry in logs]}

        first, again = build(tags=["stable"]), build()
        print(json.dumps({
            "first": first, "again": again,
            "exists": [Template.exists("app"), Template.exists("default/app"), Template.exists("nothing")],
            "tags": {one.tag: one.build_id for one in Template.get_tags("app")},
        }))
        """
    )
    first, again = answer["first"], answer["again"]
    request = appliance.node.builds[first["build"]]
    assert request.steps is not None
    assert [(one.type, one.args) for one in request.steps] == [
        ("COPY", ("src", "/app", "", "0755")),
        ("COPY", ("big.bin", "/app/big.bin", "", "")),
        ("ENV", ("KEY", "value")),
        ("RUN", ("pip install requests", "root")),
        ("WORKDIR", ("/app",)),
        ("USER", ("user",)),
    ]
    assert (request.start_cmd, request.ready_cmd) == ("python app.py", "sleep 1")
    assert request.from_build == (await appliance.master.get_template("base")).build_id
    names = [builder.unpacked[one.files_hash] for one in request.steps if one.files_hash]
    assert ["src/app.py" in names[0], names[1]] == [True, ["big.bin"]]
    assert (first["tags"], again["tags"], again["id"]) == (["v1", "stable"], ["v1"], first["id"])
    assert answer["exists"] == [True, True, False]
    assert answer["tags"] == {"v1": again["build"], "stable": first["build"]}
    assert "Uploaded 'src'" in first["logs"]
    assert "Skipping upload of 'src', already cached" in again["logs"]
    # Every entry, in order, once; nothing of the node is lost after the end.
    told = [message for message in first["logs"] if message.startswith(("[builder", "taking", "the template"))]
    assert told == [
        "[builder 1/6] COPY src",
        "[builder 2/6] COPY big.bin",
        "[builder 3/6] ENV KEY",
        "[builder 4/6] RUN pip install requests",
        "[builder 5/6] WORKDIR /app",
        "[builder 6/6] USER user",
        "taking the snapshot",
        "the template is ready",
    ]


async def test_a_failing_step_points_at_the_users_line(ask: Ask) -> None:
    answer = await ask(
        """
        import json, pathlib, traceback
        from e2b import BuildException, Template

        pathlib.Path("file").write_text("x")
        template = Template().from_image("python:3")
        template.copy("file", "/file")
        template.run_cmd("exit 3")  # the line to find
        template.run_cmd("never")
        try:
            Template.build(template, "app")
        except BuildException as error:
            lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)]
            print(json.dumps({"message": str(error), "lines": lines}))
        """
    )
    assert answer["message"] == "failed to run command 'exit 3': exit status 3"
    assert any("# the line to find" in line for line in answer["lines"])
    assert not any("never" in line for line in answer["lines"])


async def test_many_log_entries_arrive_once_each(appliance: Appliance, builder: FakeBuilder, ask: Ask) -> None:
    answer = await ask(
        """
        import json
        from e2b import Template

        template = Template().from_template("base")
        for number in range(250):
            template = template.run_cmd(f"echo {number}")
        logs = []
        Template.build(template, "chatty", skip_cache=True, on_build_logs=logs.append)
        print(json.dumps({"logs": [entry.message for entry in logs if "echo" in entry.message]}))
        """
    )
    assert answer["logs"] == [f"[builder {n + 1}/250] RUN echo {n}" for n in range(250)]
    (request,) = [one for one in appliance.node.builds.values() if one.steps]
    assert request.force is True


async def test_builds_in_the_background_and_files_that_are_put_anew(builder: FakeBuilder, ask: Ask) -> None:
    answer = await ask(
        """
        import json, pathlib, time
        from e2b import Template

        pathlib.Path("file").write_text("x")
        template = Template().from_base_image().copy("file", "/file", force_upload=True)
        logs = []
        for _ in range(2):
            info = Template.build_in_background(template, "app", on_build_logs=logs.append)
            while (status := Template.get_build_status(info)).status in ("building", "waiting"):
                time.sleep(0.05)
        tagged = Template.assign_tags("app", ["v2", "v3"])
        Template.remove_tags("app", "v3")
        print(json.dumps({
            "status": status.status, "uploads": sum(one.message == "Uploaded 'file'" for one in logs),
            "build": info.build_id, "tagged": tagged.build_id,
            "tags": sorted(one.tag for one in Template.get_tags("app")),
        }))
        """
    )
    assert (answer["status"], answer["uploads"]) == ("ready", 2)
    assert (answer["tagged"], answer["tags"]) == (answer["build"], ["default", "v2"])


async def test_the_async_builder_builds_too(ask: Ask) -> None:
    answer = await ask(
        """
        import asyncio, json, pathlib
        from e2b import AsyncTemplate

        async def main():
            pathlib.Path("file").write_text("x")
            template = AsyncTemplate().from_dockerfile("FROM python:3\\nWORKDIR /app\\nCOPY file /app/\\nCMD ls")
            info = await AsyncTemplate.build(template, alias="app")
            print(json.dumps({"name": info.name, "exists": await AsyncTemplate.exists(info.template_id)}))

        asyncio.run(main())
        """
    )
    assert answer == {"name": "app", "exists": True}


@pytest.mark.parametrize(
    ("template", "name", "message"),
    [
        ("Template().from_template('mcp-gateway')", "app", "'mcp-gateway' not found"),
        ("Template().from_image('127.0.0.1/x')", "app", "not a public address"),
        ("Template().from_image('x.com/y', username='a', password='b')", "other/app", "Invalid name"),
        ("Template().from_aws_registry('x.com/y', 'a', 'b', 'c')", "app", "'c' is no region of AWS"),
        ("Template().from_gcp_registry('gcr.io/y', {'a': 'b'})", "app", "service account"),
    ],
)
async def test_refusals_reach_the_user(ask: Ask, template: str, name: str, message: str) -> None:
    answer = await ask(
        f"""
        import json
        from e2b import BuildException, Template
        try:
            Template.build({template}, {name!r})
        except BuildException as error:
            print(json.dumps({{"message": str(error)}}))
        """
    )
    assert message in answer["message"]


async def test_a_gateway_for_mcp_servers_is_for_somebody_to_build(appliance: Appliance, ask: Ask) -> None:
    answer = await ask(
        """
        import json, pathlib
        from e2b import Sandbox, SandboxException, Template

        try:
            Sandbox.create(mcp={"exa": {"apiKey": "s3cret"}})
        except SandboxException as error:
            refusal = str(error)
        pathlib.Path("mcp-gateway").write_text("#!/bin/sh")
        program = Template().from_template("base").copy(
            "mcp-gateway", "/usr/local/bin/mcp-gateway", user="root", mode=0o755
        )
        info = Template.build(program, "mcp-gateway")
        print(json.dumps({"refusal": refusal, "built": info.template_id}))
        """
    )
    for part in (
        "template 'mcp-gateway' not found",
        "--config",
        "50005",
        "/etc/mcp-gateway/.token",
        "docs/mcp-gateway",
    ):
        assert part in answer["refusal"]
    assert "s3cret" not in answer["refusal"]
    assert (await appliance.master.get_template("mcp-gateway")).template_id == answer["built"]
