from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guest_agent.identity.init import Initializer
from guest_agent.logs.ring import LogRing
from guest_agent.session import InitRequest, Session, SessionStore
from guest_agent.volumes.slots import BorrowedSlots


class RecordingMachine:
    """Remembers what it was told; fails when asked to."""

    def __init__(self) -> None:
        self.taken: list[InitRequest] = []
        self.failure: OSError | None = None
        self.trusted: list[str] = []

    def take_identity(self, request: InitRequest) -> None:
        if self.failure is not None:
            raise self.failure
        self.taken.append(request)

    def trust(self, ca_bundle: str) -> None:
        self.trusted.append(ca_bundle)


def init(timestamp_ns: int, token: str = "token", sandbox: str = "isbx") -> InitRequest:
    return InitRequest(Session(token, timestamp_ns=timestamp_ns, sandbox_id=sandbox), "host", None, b"seed")


@pytest.fixture
def machine() -> RecordingMachine:
    return RecordingMachine()


@pytest.fixture
def sessions(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "state.json")


@pytest.fixture
def initializer(sessions: SessionStore, machine: RecordingMachine, tmp_path: Path) -> Initializer:
    return Initializer(sessions, machine, BorrowedSlots(), tmp_path / "e2b", LogRing())


def test_a_repeated_or_newer_init_is_applied_and_an_older_one_is_not(
    initializer: Initializer, sessions: SessionStore, machine: RecordingMachine
) -> None:
    for timestamp, token in ((10, "a"), (10, "b"), (11, "c"), (10, "late")):
        initializer.apply(init(timestamp, token))
    assert [request.session.access_token for request in machine.taken] == ["a", "b", "c"]
    assert sessions.current is not None
    assert sessions.current.access_token == "c"


def test_another_sandbox_is_taken_on_even_if_the_nodes_clock_went_back(
    initializer: Initializer, sessions: SessionStore
) -> None:
    initializer.apply(init(10, "template's", sandbox=""))
    initializer.apply(init(5, "clone's"))
    assert sessions.current is not None
    assert sessions.current.access_token == "clone's"


def test_a_machine_that_cannot_be_made_distinct_keeps_its_old_session(
    initializer: Initializer, sessions: SessionStore, machine: RecordingMachine
) -> None:
    machine.failure = PermissionError()
    with pytest.raises(PermissionError):
        initializer.apply(init(1))
    assert sessions.current is None


def test_what_is_to_be_trusted_is_installed_once_for_as_long_as_it_is_the_same(
    initializer: Initializer, machine: RecordingMachine
) -> None:
    for timestamp, bundle in ((1, None), (2, "a"), (3, "a"), (4, "b"), (3, "late")):
        first = init(timestamp)
        initializer.apply(replace(first, session=replace(first.session, ca_bundle=bundle)))
    assert machine.trusted == ["a", "b"]
