from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.guest_agent.agent import TOKEN, Agent, running_agent


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), "--init-from", "127.0.0.1") as agent:
        yield agent


@pytest.fixture
def agent(shared_agent: Agent) -> Agent:
    """An agent that has been told its sandbox, shared by the tests of a module."""
    answer = shared_agent.init(
        accessToken=TOKEN, envVars={"FROM_INIT": "global"}, sandboxId="isandbox", templateId="base"
    )
    assert answer.status == 204
    return shared_agent


@pytest.fixture
def open_directory(tmp_path: Path) -> Path:
    """A directory that every user may enter; pytest's own are for root only."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    return tmp_path
