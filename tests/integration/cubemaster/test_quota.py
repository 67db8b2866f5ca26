"""The limit of a team's concurrent sandboxes: exact, and given back by every end."""

from __future__ import annotations

import asyncio

import pytest

from appliance.contracts.master import SandboxView
from appliance.cubemaster.settings import CubeMasterSettings, QuotaSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance

LIMIT = 3


@pytest.fixture
def settings(settings: CubeMasterSettings) -> CubeMasterSettings:
    return settings.model_copy(update={"quotas": QuotaSettings(concurrent_sandboxes=LIMIT)})


async def test_of_many_creates_at_once_exactly_as_many_as_fit_succeed(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()

    outcomes = await asyncio.gather(*(appliance.sandbox(team_id) for _ in range(12)), return_exceptions=True)

    made = [one for one in outcomes if isinstance(one, SandboxView)]
    refused = [one for one in outcomes if isinstance(one, errors.QuotaExceeded)]
    assert (len(made), len(refused)) == (LIMIT, 12 - LIMIT)
    assert len(appliance.node.sandboxes) == LIMIT
    assert await appliance.reserved() == (LIMIT, LIMIT * 512)
    assert refused[0].retry_after_s is not None


async def test_each_team_has_its_own_limit_and_an_end_makes_room(appliance: Appliance) -> None:
    mine, theirs = await appliance.team("mine"), await appliance.team("theirs")
    await appliance.template("base", team="mine", public=True)
    made = [await appliance.sandbox(mine) for _ in range(LIMIT)]
    with pytest.raises(errors.QuotaExceeded, match="maximum of 3 concurrent"):
        await appliance.sandbox(mine)
    await appliance.sandbox(theirs)

    await appliance.master.kill_sandbox(made[0].sandbox_id, team_id=mine)

    await appliance.sandbox(mine)


async def test_a_repeated_create_finds_its_sandbox_at_the_limit(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    first, *_ = [await appliance.sandbox(team_id, idempotency_key=f"key-{n}") for n in range(LIMIT)]

    assert (await appliance.sandbox(team_id, idempotency_key="key-0")).sandbox_id == first.sandbox_id
    with pytest.raises(errors.QuotaExceeded):
        await appliance.sandbox(team_id, idempotency_key="another")


async def test_a_failed_start_holds_no_place(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.fail_create = errors.GuestFailure("it did not start")
    for _ in range(LIMIT):
        with pytest.raises(errors.GuestFailure):
            await appliance.sandbox(team_id)
    appliance.node.fail_create = None

    for _ in range(LIMIT):
        await appliance.sandbox(team_id)
