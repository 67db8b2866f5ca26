from __future__ import annotations

import itertools
from typing import Any

from guest_agent.logs import page as pages
from guest_agent.logs.page import page
from guest_agent.logs.ring import MAX_BYTES, MAX_PIECE_BYTES, MAX_RECORDS, LogRing
from guest_agent.process.events import Channel


def ring() -> LogRing:
    return LogRing(itertools.count(1).__next__)


def messages(answer: dict[str, Any]) -> list[str]:
    return [entry["message"] for entry in answer["entries"]]


def test_a_page_goes_on_where_the_last_one_ended() -> None:
    log = ring()
    log.note("info", "process", "one", pid="1")
    first = page(log, "", 0)
    assert first["entries"] == [
        {"at_ns": 2, "level": "info", "logger": "process", "message": "one", "fields": {"pid": "1"}}
    ]
    log.note("info", "process", "two")
    second = page(log, first["epoch"], first["next"])
    assert (messages(second), second["missed"]) == (["two"], 0)
    assert messages(page(log, second["epoch"], second["next"])) == []


def test_numbers_of_another_epoch_mean_nothing() -> None:
    log = ring()
    log.note("info", "process", "one")
    assert messages(page(log, "former", 100)) == ["one"]


def test_a_line_written_in_parts_is_one_entry_with_the_time_it_began() -> None:
    log = ring()
    log.piece(7, Channel.STDOUT, b"a")
    log.piece(7, Channel.STDERR, b"err\n")
    log.piece(7, Channel.STDOUT, b"b\nlast")
    log.piece(8, Channel.PTY, b"\xff\r\n")
    log.note("info", "process", "Process ended", pid="7")
    answer = page(log, "", 0)
    assert messages(answer) == ["err", "ab", "�", "last", "Process ended"]
    joined = answer["entries"][1]
    assert (joined["at_ns"], joined["fields"]) == (2, {"pid": "7", "event_type": "stdout"})
    assert answer["entries"][2]["level"] == "debug"


def test_memory_is_bounded_and_what_was_missed_is_counted() -> None:
    log = ring()
    first = page(log, "", 0)
    for _ in range(MAX_RECORDS * 2):
        log.piece(1, Channel.STDOUT, b"x\n")
    answer = page(log, first["epoch"], first["next"])
    assert answer["missed"] == MAX_RECORDS
    for _ in range(1000):
        log.piece(1, Channel.STDOUT, b"y" * 100_000)
    kept = list(log.since(0))
    assert sum(record.content.size for record in kept) <= MAX_BYTES
    assert kept[-1].content.size == MAX_PIECE_BYTES


def test_a_page_is_bounded_and_pages_follow_each_other_without_a_gap() -> None:
    log = ring()
    for number in range(100):
        log.piece(1, Channel.STDOUT, b"%d" % number + b"z" * 4000 + b"\n")
    epoch, number, seen = "", 0, 0
    while True:
        answer = page(log, epoch, number)
        if not answer["entries"]:
            break
        assert sum(len(one["message"]) for one in answer["entries"]) <= pages.MAX_PAGE_BYTES + 8192
        assert answer["entries"][0]["message"].startswith(f"{seen}z")
        seen += len(answer["entries"])
        epoch, number = answer["epoch"], answer["next"]
    assert seen == 100


def test_what_is_left_out_of_a_flood_is_said() -> None:
    log = ring()
    log.piece(1, Channel.STDOUT, b"\n" * 1000 + b"q" * MAX_PIECE_BYTES)
    answer = messages(page(log, "", 0))
    assert answer.count("") == 200
    assert answer[200] == "1800 bytes of output are left out here"


def test_a_new_sandbox_begins_with_an_empty_log() -> None:
    log = ring()
    log.note("info", "process", "of the template")
    log.clear()
    log.note("info", "process", "of the sandbox")
    assert messages(page(log, "", 0)) == ["of the sandbox"]


def test_a_long_line_is_several_entries_and_loses_nothing() -> None:
    log = ring()
    log.piece(1, Channel.STDOUT, b"a" * 5000)
    log.piece(1, Channel.STDOUT, b"b" * 5000 + b"\n")
    told = messages(page(log, "", 0))
    assert "".join(told) == "a" * 5000 + "b" * 5000
    assert max(map(len, told)) == pages.MAX_LINE
