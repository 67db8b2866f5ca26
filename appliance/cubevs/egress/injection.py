"""The header fields that a rule adds to a request, as they are sent."""

from __future__ import annotations

import re

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.domain.egress import HeaderRule, is_framing

Fields = tuple[tuple[bytes, bytes], ...]

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def injected(rule: HeaderRule) -> Fields:
    """Return what the rule adds. Raises Refused where it lets nothing pass, or cannot be carried out."""
    if rule.refusal:
        raise Refused(Reason.HEADERS, rule.refusal)
    fields = tuple((name.encode(), value.encode()) for name, value in rule.headers.items())
    for name, value in fields:
        # Its name says enough: a value may be a secret.
        shown = name.decode(errors="replace")
        if is_framing(shown) or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Refused(Reason.HEADERS, f"The header {shown!r} in the rule for {rule.domain} cannot be sent.")
    return fields
