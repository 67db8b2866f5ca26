"""The header fields that a rule adds to a request, as they are sent."""

from __future__ import annotations

import re
from typing import Final

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.domain.egress import HeaderRule

Fields = tuple[tuple[bytes, bytes], ...]

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# They say where a request ends, whom it is for, or what becomes of the connection: the proxy's own to say.
_RESERVED: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


def injected(rule: HeaderRule) -> Fields:
    """Return what the rule adds. Raises Refused where it lets nothing pass, or cannot be carried out."""
    if rule.refusal:
        raise Refused(Reason.HEADERS, rule.refusal)
    fields = tuple((name.encode(), value.encode()) for name, value in rule.headers.items())
    for name, value in fields:
        # Its name says enough: a value may be a secret.
        if name.lower() in _RESERVED or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            shown = name.decode(errors="replace")
            raise Refused(Reason.HEADERS, f"The header {shown!r} in the rule for {rule.domain} cannot be sent.")
    return fields
