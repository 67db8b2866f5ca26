from __future__ import annotations

from appliance.cubelet.builds.output import MAX_LINE, LineSplitter


def test_lines_are_put_together_from_pieces() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\n\nrest") == ["two", ""]
    assert splitter.end() == ["rest"]
    assert splitter.end() == []


def test_a_character_may_come_in_two_pieces() -> None:
    splitter = LineSplitter()
    assert splitter.feed("ä".encode()[:1]) == []
    assert splitter.feed("ä\n".encode()[1:]) == ["ä"]
    assert splitter.feed(b"\xff\n") == ["\N{REPLACEMENT CHARACTER}"]


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    assert LineSplitter().feed(b"10%\r50%\r100%\n") == ["100%"]


def test_a_line_without_end_takes_no_memory() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 10_000) == []
    (line,) = splitter.feed(b"\n")
    assert line == "x" * MAX_LINE + " ..."
