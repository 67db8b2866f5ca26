from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta

from guest_agent.process.events import Channel, Ended, Event, Keepalive, Output, Started
from guest_agent.process.subscription import MAX_PENDING, Subscription

FOREVER = timedelta(days=1)
END = Ended(0, exited=True, status="exit status 0")


def output(text: str) -> Output:
    return Output(Channel.STDOUT, text.encode())


async def test_what_is_there_comes_in_one_batch_and_the_end_is_last() -> None:
    drained: list[None] = []
    subscription = Subscription(Started(1), lambda: drained.append(None))
    batches = subscription.batches(FOREVER)
    assert await anext(batches) == [Started(1)]
    for event in (output("a"), output("b"), END):
        subscription.put(event)
    assert await anext(batches) == [output("a"), output("b"), END]
    assert [batch async for batch in batches] == []
    assert len(drained) == 2


async def test_silence_gives_keepalives() -> None:
    subscription = Subscription(Started(1), lambda: None)
    async with aclosing(subscription.batches(timedelta(milliseconds=1))) as batches:
        received: list[list[Event]] = [await anext(batches) for _ in range(3)]
    assert received == [[Started(1)], [Keepalive()], [Keepalive()]]


async def test_a_listener_that_lags_is_full_until_it_takes_a_batch() -> None:
    subscription = Subscription(Started(1), lambda: None)
    fullness = []
    for number in range(MAX_PENDING - 1):
        fullness.append(subscription.full)
        subscription.put(output(str(number)))
    fullness.append(subscription.full)
    async with aclosing(subscription.batches(FOREVER)) as batches:
        await anext(batches)
        fullness.append(subscription.full)
    assert fullness == [False] * (MAX_PENDING - 1) + [True, False]
