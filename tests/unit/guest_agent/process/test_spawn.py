from __future__ import annotations

import pytest

from guest_agent.process.spawn import find_program


def test_a_name_with_a_slash_is_taken_as_it_is() -> None:
    assert find_program("./x", "/bin", lambda _path, _mode: False) == "./x"


def test_the_first_directory_that_has_it_wins_and_an_empty_one_is_the_current() -> None:
    files = {"/b/x", "/c/x", "./y"}
    assert find_program("x", "/a:/b:/c", lambda path, _mode: path in files) == "/b/x"
    assert find_program("y", "/a::/b", lambda path, _mode: path in files) == "./y"
    with pytest.raises(FileNotFoundError):
        find_program("z", "/a:/b", lambda path, _mode: path in files)
