"""Tells CubeMaster that this node lives and what it holds; the first beat registers it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from appliance.clients.master import MasterClient
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.node import Node
from appliance.domain.errors import CubeError

log = structlog.get_logger()


class Heartbeat:
    """Beats every `interval`, and at once when a sandbox has ended or the node has paused one.

    A master that is away is tried again for ever.
    """

    def __init__(self, *, master: MasterClient, node: Node, ended: EndedStore, interval: timedelta) -> None:
        self._master = master
        self._node = node
        self._ended = ended
        self._interval = interval
        self._answering = True

    async def run(self) -> None:
        while True:
            try:
                await self._beat()
                self._note(answering=True)
            except CubeError as error:
                self._note(answering=False, error=error.message)
            except Exception:
                # A node that stops beating is lost with all its sandboxes; no defect of one beat is worth that.
                log.exception("heartbeat_failed")
            try:
                async with asyncio.timeout(self._interval.total_seconds()):
                    await self._ended.changed.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        status = self._node.status()
        self._ended.changed.clear()
        pending = self._ended.pending()
        await self._master.heartbeat(status)
        if pending:
            await self._master.report_ended(status.node_id, pending)
            for ended in pending:
                self._ended.taken(ended)

    def _note(self, *, answering: bool, error: str = "") -> None:
        # One line a change, not one a beat.
        if answering != self._answering:
            self._answering = answering
            log.warning("master_answers" if answering else "master_silent", error=error)
