from __future__ import annotations

import pytest

from bundle import mirror

TARGETS = """bookworm-security http://mirror.invalid/debian-security/
bookworm http://mirror.invalid/debian/
"""


def test_suites_beside_a_release_come_from_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_index_targets", lambda: TARGETS)
    assert mirror.uris("bookworm") == {
        "bookworm": "http://mirror.invalid/debian/",
        "bookworm-updates": "http://mirror.invalid/debian/",
        "bookworm-backports": "http://mirror.invalid/debian/",
        "bookworm-security": "http://mirror.invalid/debian-security/",
    }


def test_a_source_of_ones_own_beats_the_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TARGETS + "bookworm-backports http://other.invalid/\n"
    monkeypatch.setattr(mirror, "_index_targets", lambda: own)
    assert mirror.uris("bookworm")["bookworm-backports"] == "http://other.invalid/"


def test_a_host_without_security_updates_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_index_targets", lambda: "bookworm http://mirror.invalid/debian/\n")
    with pytest.raises(mirror.NoMirrorError, match="bookworm-security"):
        mirror.uris("bookworm")
