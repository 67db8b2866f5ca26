from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from appliance.cubevs.egress import rule_files
from appliance.cubevs.egress.rule_files import RuleReader
from appliance.cubevs.egress.rules import SandboxRules

HERE = IPv4Address("10.88.0.2")
ELSEWHERE = IPv4Address("10.88.0.3")


def rules(sandbox_id: str = "one") -> SandboxRules:
    return SandboxRules(
        sandbox_id=sandbox_id, allow_domains=("example.com",), sandbox_network=IPv4Network("10.88.0.0/16")
    )


def test_what_is_published_is_read_for_its_address_only(tmp_path: Path) -> None:
    reader = RuleReader(tmp_path)
    assert reader.rules(HERE) is None
    rule_files.publish(tmp_path, HERE, rules())
    assert reader.rules(HERE) == rules()
    assert reader.rules(ELSEWHERE) is None
    assert rule_files.published(tmp_path) == {HERE}


def test_a_reader_sees_replaced_and_withdrawn_rules(tmp_path: Path) -> None:
    reader = RuleReader(tmp_path)
    rule_files.publish(tmp_path, HERE, rules())
    first = reader.rules(HERE)
    assert reader.rules(HERE) is first, "unchanged, the same"
    rule_files.publish(tmp_path, HERE, rules("two"))
    assert reader.rules(HERE) == rules("two")
    rule_files.withdraw(tmp_path, HERE)
    rule_files.withdraw(tmp_path, HERE)
    assert reader.rules(HERE) is None
    assert rule_files.published(tmp_path) == set()


def test_rules_of_the_same_length_and_time_are_told_apart(tmp_path: Path) -> None:
    reader = RuleReader(tmp_path)
    for sandbox_id in ("one", "two", "six"):
        rule_files.publish(tmp_path, HERE, rules(sandbox_id))
        os.utime(tmp_path / f"{HERE}.json", ns=(0, 0))
        assert reader.rules(HERE) == rules(sandbox_id)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": 2}', b"[]"])
def test_rules_that_cannot_be_read_are_none(tmp_path: Path, content: bytes) -> None:
    rule_files.publish(tmp_path, HERE, rules())
    (tmp_path / f"{HERE}.json").write_bytes(content)
    assert RuleReader(tmp_path).rules(HERE) is None


def test_a_failure_leaves_the_former_rules_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule_files.publish(tmp_path, HERE, rules())

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        rule_files.publish(tmp_path, HERE, rules("two"))
    assert RuleReader(tmp_path).rules(HERE) == rules()
    assert [path.name for path in tmp_path.iterdir()] == [f"{HERE}.json"]


def test_other_files_are_no_rules(tmp_path: Path) -> None:
    (tmp_path / "note.json").touch()
    (tmp_path / f"{HERE}.new").touch()
    assert rule_files.published(tmp_path) == set()
    assert rule_files.published(tmp_path / "absent") == set()
