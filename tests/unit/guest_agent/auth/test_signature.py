from __future__ import annotations

from typing import Any

import pytest
from e2b.sandbox.signature import get_signature

from guest_agent.auth.signature import Operation, check_signature, sign
from guest_agent.errors import HttpError

NOW = 1_000.0


def check(**changes: Any) -> None:
    valid: dict[str, Any] = {
        "signature": sign("a/b", Operation.READ, "user", "token", 1_060),
        "path": "a/b",
        "operation": Operation.READ,
        "user_name": "user",
        "token": "token",
        "expiration": "1060",
        "now_s": NOW,
    }
    check_signature(**{**valid, **changes})


@pytest.mark.parametrize(("path", "user"), [("/a", ""), ("", "user"), ("~/ä b", "root")])
def test_it_is_the_signature_of_the_sdk(path: str, user: str) -> None:
    theirs = get_signature(path, "write", user or None, "token")["signature"]
    assert sign(path, Operation.WRITE, user, "token", None) == theirs


def test_a_valid_signature_passes_until_it_expires() -> None:
    check()
    check(now_s=1_060.0)
    with pytest.raises(HttpError, match=r"^signature is already expired$") as refused:
        check(now_s=1_060.5)
    assert refused.value.status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "a/c"},
        {"operation": Operation.WRITE},
        {"user_name": ""},
        {"token": "other"},
        {"expiration": "9999"},
        {"expiration": None},
        {"expiration": "-1"},
        {"signature": "v1_"},
        {"signature": "ä"},
    ],
)
def test_whatever_differs_invalidates_it(changes: dict[str, Any]) -> None:
    with pytest.raises(HttpError, match="invalid signature") as refused:
        check(**changes)
    assert refused.value.status == 401


def test_a_missing_signature_says_so() -> None:
    with pytest.raises(HttpError, match=r"^missing signature query parameter$"):
        check(signature=None)
