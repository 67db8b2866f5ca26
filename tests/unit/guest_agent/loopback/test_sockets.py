from __future__ import annotations

import socket

import pytest

from guest_agent.loopback.sockets import Listener, ListeningSockets, parse_listeners, unreachable_services

OUTER = "169.254.0.21"

TABLE = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1234 1 0000 100 0 0 10 0
   1: 00000000:C33F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000 100 0 0 10 0
   2: 1500FEA9:C33F 1600FEA9:9C4A 01 00000000:00000000 00:00000000 00000000     0        0 1236 1 0000 20 4 30 10 -1
"""

TABLE_6 = b"""\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000001000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
"""


def test_tables_of_the_kernel() -> None:
    assert list(parse_listeners(TABLE)) == [Listener("127.0.0.1", 8080), Listener("0.0.0.0", 49983)]
    # Java binds IPv6 sockets to IPv4 addresses.
    assert list(parse_listeners(TABLE_6)) == [Listener("::1", 3000), Listener("127.0.0.1", 8081), Listener("::", 80)]


OWN = "127.91.7.3"
"""Nobody else on this machine listens there, whatever port they are given."""


def test_a_listener_of_this_machine_is_found_behind_many_others() -> None:
    with socket.create_server((OWN, 0)) as service:
        others = [socket.create_server((OWN, 0)) for _ in range(100)]
        tables = ListeningSockets()
        try:
            before = tables.read()
            made = {Listener(*item.getsockname()) for item in (service, *others)}
            assert made <= before
        finally:
            for other in others:
                other.close()
        assert tables.read() & made == {Listener(*service.getsockname())}
        tables.close()


@pytest.mark.parametrize(
    ("listeners", "forwarded", "expected"),
    [
        pytest.param({("127.0.0.1", 80)}, (), {80: "127.0.0.1"}, id="on loopback alone"),
        pytest.param({("::1", 80)}, (), {80: "::1"}, id="IPv6"),
        pytest.param({("::1", 80), ("127.0.0.1", 80)}, (), {80: "127.0.0.1"}, id="both families"),
        pytest.param({("0.0.0.0", 80)}, (), {}, id="everywhere"),
        pytest.param({("127.0.0.1", 80), ("0.0.0.0", 80)}, (), {}, id="everywhere too"),
        pytest.param({("127.0.0.1", 80), ("::", 80)}, (), {}, id="everywhere by IPv6"),
        pytest.param({("127.0.0.1", 80), (OUTER, 80)}, (), {}, id="outside, by the program itself"),
        pytest.param({("127.0.0.1", 80), (OUTER, 80)}, (80,), {80: "127.0.0.1"}, id="outside, by us"),
        pytest.param({(OUTER, 80)}, (80,), {}, id="gone"),
        pytest.param({("127.0.0.2", 80)}, (), {}, id="on another address of loopback, as the code interpreter's own"),
        pytest.param({("127.0.0.1", 80), ("0.0.0.0", 81)}, (), {80: "127.0.0.1"}, id="another port"),
    ],
)
def test_what_is_to_be_forwarded(
    listeners: set[tuple[str, int]], forwarded: tuple[int, ...], expected: dict[int, str]
) -> None:
    found = {Listener(address, port) for address, port in listeners}
    assert unreachable_services(found, outer=OUTER, forwarded=forwarded) == expected
