from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.domain.errors import Forbidden, Unauthenticated
from appliance.domain.upload_leave import LIFETIME, UploadLeave, UploadSigner

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNER = UploadSigner("seed")
LEAVE = SIGNER.grant("template", "0" * 64, now=NOW)


def test_a_leave_is_good_until_it_runs_out() -> None:
    SIGNER.check(LEAVE, now=NOW)
    SIGNER.check(LEAVE, now=NOW + LIFETIME)
    with pytest.raises(Forbidden):
        SIGNER.check(LEAVE, now=NOW + LIFETIME + timedelta(seconds=1))


@pytest.mark.parametrize(
    "changed",
    [
        replace(LEAVE, template_id="other"),
        replace(LEAVE, files_hash="1" * 64),
        replace(LEAVE, expires=LEAVE.expires + 1),
        replace(LEAVE, signature=""),
        replace(LEAVE, signature="é"),
        UploadSigner("another").grant("template", "0" * 64, now=NOW),
    ],
)
def test_what_was_not_granted_is_none(changed: UploadLeave) -> None:
    with pytest.raises(Unauthenticated):
        SIGNER.check(changed, now=NOW)


def test_a_signature_is_in_no_text_about_it() -> None:
    assert LEAVE.signature not in repr(LEAVE)
