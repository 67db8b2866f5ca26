from __future__ import annotations

import hashlib

import pytest

from appliance.contracts.master import NewKey
from appliance.domain import errors
from appliance.domain.ids import API_KEY
from tests.integration.cubemaster.conftest import Appliance, eventually


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def test_a_key_resolves_to_its_team_until_it_is_revoked(appliance: Appliance) -> None:
    created = await appliance.master.create_key(NewKey(team="blue", name="laptop"))
    assert API_KEY.fullmatch(created.key)

    resolved = await appliance.master.resolve_key(_digest(created.key))
    assert (resolved.key_id, resolved.team_slug) == (created.key_id, "blue")
    (shown,) = await appliance.master.list_keys()
    assert (shown.name, shown.mask) == ("laptop", f"{created.key[:6]}...{created.key[-4:]}")

    async def noted() -> bool:
        return (await appliance.master.list_keys())[0].last_used_at is not None

    await eventually(noted)

    await appliance.master.revoke_key(created.key_id)
    with pytest.raises(errors.Unauthenticated):
        await appliance.master.resolve_key(_digest(created.key))
    with pytest.raises(errors.NotFound):
        await appliance.master.revoke_key(created.key_id)
    assert await appliance.master.list_keys() == []


async def test_the_key_itself_is_stored_nowhere(appliance: Appliance) -> None:
    created = await appliance.master.create_key(NewKey(name="laptop"))
    rows = appliance.db.execute("SELECT * FROM api_keys", database="cube_master")
    assert created.key not in str(rows)
    assert _digest(created.key) in str(rows)


async def test_keys_of_one_team_share_it(appliance: Appliance) -> None:
    assert await appliance.team("blue") == await appliance.team("blue") != await appliance.team("red")
