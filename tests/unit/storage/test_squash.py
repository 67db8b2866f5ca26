"""Which failure of the pipe is the cause of the others."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from appliance.domain.errors import DiskFull, ImageRejected, StorageFailure
from appliance.storage.merge_job import LayerBlob, MergeJob, MergeReport
from appliance.storage.merge_worker import EXIT_READER_GONE, EXIT_REJECTED
from appliance.storage.squash import Ended, _check, pack_argv, pack_environment

FINE = Ended(0, b"")
DURATION = timedelta(seconds=9)
MISMATCH = MergeReport(rule="diff-id-mismatch", detail="changed")


@pytest.mark.parametrize(
    ("merged", "packed", "error", "says"),
    [
        (Ended(EXIT_REJECTED, MISMATCH.to_json()), FINE, ImageRejected, "diff-id-mismatch"),
        (Ended(EXIT_REJECTED, MISMATCH.to_json()), Ended(1, b"odd end"), ImageRejected, "diff-id-mismatch"),
        (Ended(-signal.SIGXCPU, b""), Ended(1, b"odd end"), ImageRejected, "longer than 9 s"),
        (Ended(-signal.SIGKILL, b""), FINE, ImageRejected, "longer than 9 s"),
        (FINE, Ended(-signal.SIGXCPU, b""), ImageRejected, "longer than 9 s"),
        (Ended(1, b"Traceback\nKeyError: 'x'\n"), FINE, StorageFailure, "KeyError: 'x'"),
        (Ended(EXIT_REJECTED, b"no report"), FINE, StorageFailure, "no report"),
        (Ended(EXIT_READER_GONE, b""), Ended(1, b"write failed: No space left on device"), DiskFull, "no room"),
        (Ended(EXIT_READER_GONE, b""), Ended(-signal.SIGXFSZ, b""), DiskFull, "no room"),
        (Ended(EXIT_READER_GONE, b""), Ended(1, b"cannot\n"), StorageFailure, "sqfstar ended with 1: cannot"),
        (Ended(EXIT_READER_GONE, b""), FINE, StorageFailure, "sqfstar ended with 0"),
        (FINE, Ended(-signal.SIGSEGV, b""), StorageFailure, "sqfstar ended with -11"),
    ],
)
def test_the_cause_is_reported(merged: Ended, packed: Ended, error: type[StorageFailure], says: str) -> None:
    with pytest.raises(error) as raised:
        _check(merged, packed, DURATION)
    assert type(raised.value) is error
    assert says in str(raised.value)


def test_two_good_ends_are_none() -> None:
    _check(FINE, FINE, DURATION)


def test_the_packer_writes_to_the_descriptor_it_inherits() -> None:
    assert pack_argv(17)[-1] == "/proc/self/fd/17"
    assert pack_environment(1_700_000_000)["SOURCE_DATE_EPOCH"] == "1700000000"


def test_jobs_and_reports_survive_the_pipe() -> None:
    job = MergeJob((LayerBlob(3, 0, 10, "sha256:a", None), LayerBlob(3, 10, 5, "sha256:b", "sha256:c")), 1, 2, 3, 4)
    assert MergeJob.from_json(job.to_json()) == job
    assert MergeReport.from_json(MISMATCH.to_json()) == MISMATCH
