"""Builds of the fake node that end by themselves: each step is logged, none is run.

What a COPY unpacks is fetched from CubeMaster as a node fetches it. A RUN of `exit N` fails its build.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from appliance.contracts.node import BuildRequest, BuildState, BuildStep
from tests.support.fake_node import FakeNode


@dataclass
class FakeBuilder:
    node: FakeNode
    master: Path
    """CubeMaster's socket."""
    unpacked: dict[str, list[str]] = field(default_factory=dict)
    """Names in the archives that builds fetched, by the archive's hash."""

    async def build(self, request: BuildRequest) -> None:
        for number, step in enumerate(request.steps or (), 1):
            self._log(request, f"[builder {number}/{len(request.steps or ())}] {step.type} {step.args[0]}", str(number))
            failure = await self._run(request, step)
            if failure is not None:
                self._log(request, failure, str(number), level="error")
                self.node.finish_build(request.build_id, BuildState.ERROR, reason=failure, step=str(number))
                return
        self._log(request, "taking the snapshot", "finalize")
        self.node.finish_build(request.build_id, BuildState.READY)

    async def _run(self, request: BuildRequest, step: BuildStep) -> str | None:
        if step.type == "RUN" and step.args[0].startswith("exit "):
            return f"failed to run command '{step.args[0]}': exit status {step.args[0].split()[1]}"
        if step.files_hash is not None:
            await self._fetch(request.template_id, step.files_hash)
        return None

    async def _fetch(self, template_id: str, files_hash: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(self.master))
        async with httpx.AsyncClient(transport=transport, base_url="http://master") as http:
            response = await http.get(f"/v1/template-files/{template_id}/{files_hash}")
            response.raise_for_status()
        with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
            self.unpacked[files_hash] = archive.getnames()

    def _log(self, request: BuildRequest, message: str, step: str, *, level: str = "info") -> None:
        self.node.log(request.build_id, message, step=step, level=level)
