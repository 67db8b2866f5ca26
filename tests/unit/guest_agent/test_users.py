from __future__ import annotations

from pathlib import Path

from guest_agent.users import ROOT, UserDatabase, read_accounts

PASSWD = """root:x:0:0:root:/root:/bin/bash
broken line
user:x:1000:1000:,,,:/home/user:/bin/bash
user:x:1:1::/second:/bin/sh
homeless:x:1001:1001:::/bin/sh
nan:x:abc:1::/:/bin/sh
toor:x:0:0::/toor:/bin/sh
"""
GROUP = """root:x:0:
sudo:x:27:user,homeless
user:x:1000:user
docker:x:999:other, user
broken
"""


def test_a_user_has_its_groups_the_primary_one_first() -> None:
    user = read_accounts(PASSWD, GROUP).users["user"]
    assert (user.uid, user.gid, user.groups, user.home) == (1000, 1000, (1000, 27), "/home/user")


def test_malformed_lines_are_skipped_and_an_empty_home_is_the_root_directory() -> None:
    accounts = read_accounts(PASSWD, GROUP)
    assert accounts.users.keys() == {"root", "user", "homeless", "toor"}
    assert accounts.users["homeless"].home == "/"


def test_numbers_have_the_first_name_that_is_given_to_them() -> None:
    accounts = read_accounts(PASSWD, GROUP)
    assert accounts.user_names == {0: "root", 1000: "user", 1001: "homeless"}
    assert accounts.group_names[999] == "docker"


def test_an_image_without_account_files_has_root(tmp_path: Path) -> None:
    database = UserDatabase(tmp_path)
    assert database.find("root") == ROOT
    assert database.find("user") is None
    assert (database.user_name(0), database.user_name(7), database.group_name(7)) == ("root", "7", "7")


def test_an_account_added_later_is_found(tmp_path: Path) -> None:
    database = UserDatabase(tmp_path)
    assert database.find("new") is None
    (tmp_path / "passwd").write_text("new:x:5:6::/new:/bin/sh\n")
    found = database.find("new")
    assert found is not None
    assert found.groups == (6,)
    replacement = tmp_path / "passwd.new"
    replacement.write_text("old:x:5:6::/old:/bin/sh\n")
    replacement.replace(tmp_path / "passwd")
    assert database.find("new") is None
