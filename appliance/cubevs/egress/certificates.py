"""What the proxy shows to guests as the server that they asked for, made when it is first needed.

Authorise before signing: a certificate is made for a name only that a header rule of the sandbox is for.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.common.clock import Clock
from appliance.cubevs.egress.authority import LEAF_LIFETIME, Authority
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import SandboxRules

MAX_SANDBOXES: Final = 1024
"""Whose certificates are kept at one time."""
MAX_NAMES: Final = 32
"""How many are kept of one sandbox."""
BURST: Final = 2 * MAX_NAMES
"""How many are made at once for one sandbox; then one a second."""
ALPN: Final = ("http/1.1",)


@dataclass(slots=True)
class _Issuer:
    """One sandbox's authority, and what it issued."""

    authority: Authority
    at: float
    allowance: float = BURST
    issued: OrderedDict[str, tuple[ssl.SSLContext, datetime]] = field(default_factory=OrderedDict)
    """With when another is to be made."""


class Certificates:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # One for all: no guest sees it, and each trusts nothing but its own sandbox's authority.
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._issuers: OrderedDict[tuple[str, str], _Issuer] = OrderedDict()
        self.made = 0

    def context(self, rules: SandboxRules, name: str) -> ssl.SSLContext:
        """Return the context of a server that is `name` to the guest of these rules. Raises Refused."""
        if rules.header_rule(name) is None or not rules.authority_key:
            raise Refused(Reason.DOMAIN, f"No rule of this sandbox is for the headers of {name}.")
        issuer = self._issuer(rules)
        now = self._clock.now()
        kept = issuer.issued.get(name)
        if kept is None or kept[1] <= now:
            self._spend(issuer)
            context = self._made(issuer.authority, name, now)
            issuer.issued[name] = kept = (context, now + LEAF_LIFETIME / 2)
        issuer.issued.move_to_end(name)
        if len(issuer.issued) > MAX_NAMES:
            issuer.issued.popitem(last=False)
        return kept[0]

    def _issuer(self, rules: SandboxRules) -> _Issuer:
        key = (rules.sandbox_id, rules.authority_key)
        if key not in self._issuers:
            authority = Authority(rules.sandbox_id, bytes.fromhex(rules.authority_key))
            self._issuers[key] = _Issuer(authority, at=self._clock.monotonic())
        self._issuers.move_to_end(key)
        if len(self._issuers) > MAX_SANDBOXES:
            self._issuers.popitem(last=False)
        return self._issuers[key]

    def _spend(self, issuer: _Issuer) -> None:
        at = self._clock.monotonic()
        issuer.allowance = min(BURST, issuer.allowance + at - issuer.at)
        issuer.at = at
        if issuer.allowance < 1:
            raise Refused(Reason.TOO_MANY, "This sandbox asks for new names too often: try again in a moment.")
        issuer.allowance -= 1

    def _made(self, authority: Authority, name: str, now: datetime) -> ssl.SSLContext:
        self.made += 1
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(ALPN))
        # A connection that is resumed would outlive what was signed for it.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        # It is read from a path only: from one in memory, so that the key is on no disk.
        memory = os.memfd_create("leaf", os.MFD_CLOEXEC)
        with open(memory, "wb", buffering=0) as file:
            file.write(authority.issue(name, self._key.public_key(), now) + self._key_pem)
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        return context
