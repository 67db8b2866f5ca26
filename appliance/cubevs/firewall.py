"""The node's own packet filter for sandboxes: masquerade, and a second fence behind the eBPF programs.

Should a tap ever be without its programs, this ruleset still keeps guests from the node and from each other.
It lives in a table of its own and is replaced in one transaction, so there is no moment without it. What a host's
firewall drops in another table (Docker's drops forwarded packets) stays dropped: it must let `cubetap*` through.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from appliance.cubevs.base import PROXY_HTTP_PORT, PROXY_TCP_PORT, PROXY_TLS_PORT
from appliance.cubevs.taps import TAP_PREFIX
from appliance.domain.errors import DeadlineExceeded, NetworkFailure

_NFT_DEADLINE_S: Final = 10.0
_IP_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")


def ruleset(network: IPv4Network, dns_address: IPv4Address | None, *, flows_per_guest: int) -> str:
    """Return the whole table, as `nft -f -` reads it.

    The node has one connection table for all: a guest that opens flows without end is stopped at `flows_per_guest`.
    """
    taps = f'"{TAP_PREFIX}*"'
    dns = f"ip daddr {dns_address} udp dport 53 accept" if dns_address else "# no DNS for guests"
    ports = f"{{ {PROXY_HTTP_PORT}, {PROXY_TLS_PORT}, {PROXY_TCP_PORT} }}"
    proxy = f"ip daddr {network[1]} tcp dport {ports} accept"
    return f"""\
table inet cube
delete table inet cube
table inet cube {{
    set flows {{
        type ipv4_addr; size 65535; flags dynamic;
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {taps} jump from_guest
    }}
    chain from_guest {{
        ct state established,related accept
        ct state new add @flows {{ ip saddr ct count over {flows_per_guest} }} counter drop
        {dns}
        {proxy}
        counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname {taps} oifname {taps} counter drop
        iifname {taps} ct state new add @flows {{ ip saddr ct count over {flows_per_guest} }} counter drop
        iifname {taps} tcp flags syn tcp option maxseg size set rt mtu
        oifname {taps} ct state established,related accept
        oifname {taps} counter drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} ip saddr != {network[1]} oifname != {taps} masquerade
    }}
}}
"""


async def apply(rules: str) -> None:
    """Hand the ruleset to nft: all of it takes effect at once, or nothing does."""
    process = await asyncio.create_subprocess_exec(
        "nft",
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_NFT_DEADLINE_S):
            _, errors = await process.communicate(rules.encode())
    except TimeoutError as error:
        raise DeadlineExceeded("nft", _NFT_DEADLINE_S) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NetworkFailure(f"nft refused the sandbox ruleset: {errors.decode(errors='replace').strip()}")


def enable_forwarding() -> None:
    """Make this network namespace route. A host that forbids the write must have it set already."""
    if _IP_FORWARD.read_text().strip() == "1":
        return
    try:
        _IP_FORWARD.write_text("1")
    except OSError as error:
        raise NetworkFailure(f"set net.ipv4.ip_forward = 1: this service may not ({error.strerror})") from error
