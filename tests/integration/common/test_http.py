"""Calls between our services, against servers that misbehave."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from appliance.common.http import InternalClient, install_error_handlers
from appliance.domain.errors import DeadlineExceeded, SandboxNotFound, Unavailable, VmmFailure
from tests.support.fake_node import serve_on

SOON = timedelta(seconds=20)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>"), (500, "Internal Server Error"), (502, "{}"), (503, '["code"]'), (404, "")],
)
async def test_an_answer_that_makes_no_sense_is_an_unavailable_service(status: int, body: str, tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/")
    async def answer() -> Response:
        return Response(body, status_code=status)

    async with (
        serve_on(app, tmp_path / "s"),
        InternalClient(f"unix://{tmp_path}/s", service="cubelet") as client,
    ):
        with pytest.raises(Unavailable, match="cubelet"):
            await client.request("GET", "/", deadline=SOON)


class _Hung(VmmFailure):
    """Known to its module alone."""


async def test_an_error_of_one_module_arrives_as_what_it_derives_from(tmp_path: Path) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def answer() -> Response:
        raise _Hung("it hung")

    async with (
        serve_on(app, tmp_path / "s"),
        InternalClient(f"unix://{tmp_path}/s", service="cubelet") as client,
    ):
        with pytest.raises(VmmFailure, match="it hung"):
            await client.request("GET", "/", deadline=SOON)


async def test_an_error_of_ours_arrives_as_itself(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/")
    async def answer() -> Response:
        return Response('{"code": 404, "message": "gone", "error_code": "SandboxNotFound"}', status_code=404)

    async with (
        serve_on(app, tmp_path / "s"),
        InternalClient(f"unix://{tmp_path}/s", service="cubelet") as client,
    ):
        with pytest.raises(SandboxNotFound, match="gone"):
            await client.request("GET", "/", deadline=SOON)


async def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    async with InternalClient(f"unix://{tmp_path}/nothing", service="cube-master") as client:
        with pytest.raises(Unavailable, match="cube-master does not answer"):
            await client.request("GET", "/", deadline=SOON)


async def test_a_late_answer_is_a_missed_deadline(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/")
    async def answer() -> None:
        await asyncio.sleep(1)

    async with (
        serve_on(app, tmp_path / "s"),
        InternalClient(f"unix://{tmp_path}/s", service="cubelet") as client,
    ):
        with pytest.raises(DeadlineExceeded):
            await client.request("GET", "/", deadline=timedelta(seconds=0.1))
