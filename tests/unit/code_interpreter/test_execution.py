import asyncio

import pytest

from code_interpreter import execution
from code_interpreter.events import Event, ExecutionFailed, KeepAlive, NumberOfExecutions
from code_interpreter.execution import Execution, Loss
from code_interpreter.messages import execute_request
from tests.unit.code_interpreter.jupyter_messages import BUSY, IDLE, INPUT, OK_REPLY


class Client:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def following() -> Execution:
    return Execution(execute_request("1"))


async def test_following_ends_with_the_execution(following: Execution) -> None:
    for message in (BUSY, INPUT, OK_REPLY, IDLE):
        following.deliver(message)
    client = Client()
    await following.follow(client.emit)
    assert client.events == [NumberOfExecutions(7)]


@pytest.mark.parametrize(
    ("loss", "name"),
    [(Loss.RESTARTED, "ContextRestarting"), (Loss.DISCONNECTED, "UnexpectedEndOfExecution")],
)
async def test_a_lost_kernel_ends_the_execution_with_a_failure(following: Execution, loss: Loss, name: str) -> None:
    following.deliver(INPUT)
    following.deliver(loss)
    following.deliver(Loss.DISCONNECTED)
    client = Client()
    await following.follow(client.emit)
    failures = [event for event in client.events if isinstance(event, ExecutionFailed)]
    assert [failure.name for failure in failures] == [name]


async def test_silence_is_broken_by_keepalives(following: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "KEEP_ALIVE_S", 0.01)
    client = Client()

    async def emit(event: Event) -> None:
        await client.emit(event)
        if client.events == [KeepAlive(), KeepAlive()]:
            following.deliver(INPUT)
            following.deliver(IDLE)

    async with asyncio.timeout(10):
        await following.follow(emit)
    assert client.events == [KeepAlive(), KeepAlive(), NumberOfExecutions(7)]


async def test_waiting_for_the_end_has_a_deadline(following: Execution) -> None:
    following.deliver(BUSY)
    assert await following.finished_within(0.01) is False
    following.deliver(INPUT)
    following.deliver(IDLE)
    assert await following.finished_within(10) is True
