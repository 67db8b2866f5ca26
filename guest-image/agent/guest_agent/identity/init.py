"""POST /init: the node tells a machine who it is now. Nothing else is answered in full before it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from guest_agent import ENVD_VERSION
from guest_agent.bodies import read_document
from guest_agent.errors import HttpError
from guest_agent.identity import clock, entropy, names, trust
from guest_agent.logs.ring import LogRing
from guest_agent.session import InitRequest, SessionStore, ca_bundle, parse_document, parse_init
from guest_agent.volumes.slots import Slots


class Machine(Protocol):
    """The parts of a machine that a clone must not share with its template."""

    def take_identity(self, request: InitRequest) -> None:
        """Apply clock, entropy and names. Raises OSError if the machine cannot be made distinct."""
        ...

    def trust(self, ca_bundle: str) -> None:
        """Trust the certificates, and no longer those of the last call. Costs nothing if they are the same.

        Raises OSError.
        """
        ...


class GuestMachine:
    """The virtual machine this agent runs in."""

    def __init__(self, etc: Path = Path("/etc"), run: Path = Path("/run")) -> None:
        self._etc = etc
        self._run = run

    def take_identity(self, request: InitRequest) -> None:
        clock.adjust(request.session.timestamp_ns)
        if request.entropy:
            entropy.reseed(request.entropy)
        if request.hostname:
            names.set_hostname(request.hostname)
            names.write_hosts(self._etc, request.hostname)
        if request.machine_id:
            names.write_machine_id(self._etc, self._run, request.machine_id)

    def trust(self, ca_bundle: str) -> None:
        trust.install(ca_bundle)


class BorrowedMachine:
    """A machine that is not the agent's own, such as a developer's: the agent leaves its identity alone."""

    def take_identity(self, request: InitRequest) -> None:
        """Change nothing."""

    def trust(self, ca_bundle: str) -> None:
        """Change nothing."""


class Initializer:
    """Applies /init in one step of the event loop, so no request sees half a session."""

    def __init__(self, sessions: SessionStore, machine: Machine, slots: Slots, markers: Path, logs: LogRing) -> None:
        self._logs = logs
        self._slots = slots
        self._sessions = sessions
        self._machine = machine
        self._markers = markers

    async def endpoint(self, request: Request) -> ASGIApp:
        received_ns = time.time_ns()
        self.apply(parse_init(await read_document(request), received_ns=received_ns))
        return Response(status_code=204, headers={"X-Envd-Version": ENVD_VERSION, "Cache-Control": "no-store"})

    async def trust_endpoint(self, request: Request) -> ASGIApp:
        """POST /trust: rules that need an authority have come to a sandbox that runs, and is otherwise as it was."""
        bundle = ca_bundle(parse_document(await read_document(request), "trust"))
        session = self._sessions.current
        if session is None:
            raise HttpError(503, "the sandbox is not initialized yet")
        if bundle is None:
            raise HttpError(400, "invalid caBundle: missing; give certificates in PEM form")
        if session.ca_bundle != bundle:
            self._trust(bundle)
            self._sessions.replace(replace(session, ca_bundle=bundle))
        return Response(status_code=204)

    def _trust(self, bundle: str) -> None:
        try:
            self._machine.trust(bundle)
        except OSError as error:
            raise HttpError(507, f"the certificates in caBundle cannot be installed: {error}") from error

    def apply(self, request: InitRequest) -> None:
        """Become the sandbox that `request` describes.

        A request for the same sandbox that is older than the last one came late and is ignored. For another sandbox it
        never is: if the node's clock was set back since, the clone would go on with its template's session.
        """
        current = self._sessions.current
        if current is not None and request.session.precedes(current):
            return
        self._machine.take_identity(request)
        if request.session.ca_bundle is not None and (
            current is None or request.session.ca_bundle != current.ca_bundle
        ):
            self._trust(request.session.ca_bundle)
        for slot, path in request.session.volumes.items():
            self._slots.mount(int(slot), path)
        names.write_markers(self._markers, request.session)
        if current is None or current.sandbox_id != request.session.sandbox_id:
            # What was logged so far is the template's.
            self._logs.clear()
        session = request.session
        if request.inherits_env and current is not None:
            session = replace(session, env_vars={**current.env_vars, **session.env_vars})
        self._sessions.replace(session)
