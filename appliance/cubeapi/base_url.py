"""The address of this API as the caller knows it."""

from __future__ import annotations

import re

from fastapi import Request

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def base_url(request: Request, *, domain: str) -> str:
    """Return scheme and host that the request was sent to; `https://api.<domain>` where it does not say.

    CubeProxy passes the host on as it is, and says the scheme in X-Forwarded-Proto, which uvicorn believes of peers on
    127.0.0.1 alone: those are CubeProxy and programs of this machine.
    """
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else f"https://api.{domain}"
