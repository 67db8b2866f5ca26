"""The address of this API as the caller knows it."""

from __future__ import annotations

import re
from ipaddress import ip_address

from fastapi import Request

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def base_url(request: Request, *, domain: str) -> str:
    """Return scheme and host that the request was sent to; `https://api.<domain>` where it does not say.

    CubeProxy passes the host on as it is, and says the scheme in X-Forwarded-Proto. Only it and programs of this
    machine come from a loopback address, and only they are believed about the scheme.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        return f"https://api.{domain}"
    forwarded = request.headers.get("x-forwarded-proto")
    scheme = forwarded if forwarded in ("http", "https") and _is_local(request) else request.url.scheme
    return f"{scheme}://{host}"


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
