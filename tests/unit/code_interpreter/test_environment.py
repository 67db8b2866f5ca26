from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from code_interpreter.environment import SandboxEnvironment


class Agent:
    """A guest agent that answers `GET /envs` by access token and counts the asking."""

    def __init__(self) -> None:
        self.variables: dict[str | None, Mapping[str, str]] = {}
        self.asked = 0

    async def envs(self, request: web.Request) -> web.Response:
        self.asked += 1
        variables = self.variables.get(request.headers.get("X-Access-Token"))
        return web.Response(status=401) if variables is None else web.json_response(variables)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def environment(agent: Agent) -> AsyncIterator[SandboxEnvironment]:
    app = web.Application()
    app.router.add_get("/envs", agent.envs)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield SandboxEnvironment(session, str(server.make_url("/envs")))


async def test_variables_are_read_once_for_a_token(agent: Agent, environment: SandboxEnvironment) -> None:
    agent.variables["one"] = {"A": "1"}
    first = await environment.variables("one")
    assert first.values == {"A": "1"}
    assert await environment.variables("one") == first
    assert agent.asked == 1


async def test_another_token_is_another_sandbox(agent: Agent, environment: SandboxEnvironment) -> None:
    agent.variables |= {"one": {"A": "1"}, "two": {"B": "2"}}
    first = await environment.variables("one")
    second = await environment.variables("two")
    assert second.values == {"B": "2"}
    assert second.generation != first.generation


async def test_a_refusal_leaves_what_was_read(agent: Agent, environment: SandboxEnvironment) -> None:
    agent.variables["one"] = {"A": "1"}
    first = await environment.variables("one")
    assert await environment.variables("wrong") == first
    assert await environment.variables("one") == first


async def test_an_agent_that_is_not_there_yet_is_asked_again(agent: Agent, environment: SandboxEnvironment) -> None:
    assert (await environment.variables(None)).values == {}
    agent.variables[None] = {"A": "1"}
    assert (await environment.variables(None)).values == {"A": "1"}
