from __future__ import annotations

import struct

from guest_agent.filesystem.watch.inotify import Mask, RawEvent, parse_events


def test_records_of_any_padding_are_parsed() -> None:
    data = struct.pack("iIII", 1, 0x100, 0, 16) + b"name".ljust(16, b"\0")
    data += struct.pack("iIII", 2, 0x40000200, 7, 0)
    assert list(parse_events(data)) == [
        RawEvent(1, Mask.CREATE, "name"),
        RawEvent(2, Mask.DELETE | Mask.ISDIR, ""),
    ]
