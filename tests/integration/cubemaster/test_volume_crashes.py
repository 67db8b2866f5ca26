"""CubeMaster is killed in the middle of making or deleting a volume, and started again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.contracts.volumes import NewVolume
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import DATABASE, eventually
from tests.support.fake_node import FakeNode
from tests.support.mariadb import MariaDb

ROOT = Path(__file__).parents[3]
_MAIN = "from appliance.cubemaster.main import main; main()"


class Master:
    """CubeMaster as a process of its own, which a failpoint may kill."""

    def __init__(self, settings: CubeMasterSettings, directory: Path) -> None:
        self.failpoint = directory / "failpoint"
        self._socket = settings.socket
        self._argv = (
            *(sys.executable, "-c", _MAIN),
            *("--config", str(directory / "master.toml"), "--credentials", str(directory / "secrets")),
        )
        (directory / "secrets").mkdir()
        (directory / "secrets" / "envd-seed").write_text("5" * 64)
        (directory / "secrets" / "secrets-key").write_text("6" * 64)
        (directory / "master.toml").write_text(
            f"""
socket = "{settings.socket}"
data_dir = "{settings.data_dir}"
failpoints = "{self.failpoint}"
[database]
socket = "{settings.database.socket}"
name = "{DATABASE}"
user = "{settings.database.user}"
password = false
[redis]
socket = "{settings.redis.socket}"
password = false
[volumes]
size_mib = 1000
"""
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(*self._argv, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
        try:
            await eventually(self._answers, within_s=60)
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(30):
                await process.wait()

    async def _answers(self) -> bool:
        try:
            async with InternalClient(f"unix://{self._socket}", service="cube-master") as http:
                await MasterClient(http).health()
        except errors.Unavailable:
            return False
        return True


@pytest.mark.parametrize(
    "point",
    ["volume-create:written", "volume-create:carried-out", "volume-delete:written", "volume-delete:carried-out"],
)
async def test_a_volume_that_was_half_made_or_half_deleted_is_gone_after_a_crash(
    settings: CubeMasterSettings, db: MariaDb, run_dir: Path, point: str
) -> None:
    node = FakeNode(run_dir / "node")
    master = Master(settings, run_dir)

    def rows() -> list[tuple[object, ...]]:
        return list(db.execute("SELECT name, state FROM volumes", database=DATABASE))

    async with node.serving(), InternalClient(f"unix://{settings.socket}", service="cube-master") as http:
        client = MasterClient(http)
        async with master.running() as process:
            await client.heartbeat(node.status())
            team_id = (await client.teams.create("team")).team_id
            new = NewVolume(team_id=team_id, name="data")
            volume_id = (await client.volumes.create(new)).volume_id if "delete" in point else None
            master.failpoint.write_text(f"{point} kill")
            with pytest.raises(errors.Unavailable):
                await (client.volumes.create(new) if volume_id is None else client.volumes.delete(volume_id))
            async with asyncio.timeout(30):
                assert await process.wait() == -signal.SIGKILL
        assert rows() == [("data", "creating") if volume_id is None else (None, "deleting")]
        assert len(node.volumes.made) == (point in ("volume-create:carried-out", "volume-delete:written"))
        # As if it had been a while ago: no call is behind it any more.
        db.execute("UPDATE volumes SET created_at = created_at - INTERVAL 1 HOUR", database=DATABASE)

        async with master.running():

            async def gone() -> bool:
                return not node.volumes.made and not rows()

            await eventually(gone, within_s=60)
            again = await client.volumes.create(new)
            assert node.volumes.made.keys() == {again.volume_id}
