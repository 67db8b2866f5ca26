from __future__ import annotations

from guest_agent.fields import field


def test_a_field_may_be_written_in_snake_or_camel_case() -> None:
    assert field({"some_name": 1}, "some_name") == field({"someName": 1}, "some_name") == 1
