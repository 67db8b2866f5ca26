"""TLS to both sides of a request that gets headers: ended here as the name's server, begun anew as its client."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from appliance.cubevs.egress.certificates import ALPN, Certificates
from appliance.cubevs.egress.client_hello import ClientHello
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.stream import Stream
from appliance.cubevs.egress.tls_stream import TlsStream


def upstream_trust(also: Path | None) -> ssl.SSLContext:
    """Return who is believed to be a name: whom the node believes, and the certificates in a file of PEM.

    Raises OSError, which ssl.SSLError is too.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(ALPN))
    # What is cut short is to be told from what ends.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if also is not None:
        context.load_verify_locations(also)
    return context


class Interceptor:
    """`handshake_s` is what an upstream may take to show who it is."""

    def __init__(self, *, certificates: Certificates, trust: ssl.SSLContext, handshake_s: float) -> None:
        self._certificates = certificates
        self._trust = trust
        self._handshake_s = handshake_s

    async def as_server(self, guest: Stream, hello: ClientHello, rules: SandboxRules) -> TlsStream:
        """Be the server that the guest asks for in `hello`. Raises Refused; the deadline is the caller's."""
        context = self._certificates.context(rules, hello.server_name)
        stream = TlsStream(guest, context, received=hello.flight)
        try:
            await stream.handshake()
        except ssl.SSLError as error:
            why = f"The TLS handshake for {hello.server_name} failed: {error.reason or 'the connection ended'}."
            raise Refused(Reason.UNTRUSTED, why) from error
        return stream

    async def as_client(self, upstream: Stream, name: str, guest: Stream) -> TlsStream:
        """Be a client of `name`, whose certificate is verified, for what `as_server` returned. Raises Refused."""
        stream = TlsStream(upstream, self._trust, server_hostname=name)
        try:
            async with asyncio.timeout(self._handshake_s):
                await stream.handshake()
        except ssl.SSLCertVerificationError as error:
            why = f"No request was sent: who answers for {name} cannot be verified: {error.verify_message}."
            raise Refused(Reason.UNVERIFIED, why) from error
        except (OSError, TimeoutError) as error:
            raise Refused(Reason.UPSTREAM, f"{name} does not answer by TLS 1.2 or later on port 443.") from error
        if isinstance(guest, TlsStream):
            guest.passes_on(stream)
        return stream
