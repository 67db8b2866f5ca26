"""TLS to a tenant's SOCKS5 proxy."""

from __future__ import annotations

import ssl
from functools import lru_cache

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import Stream
from appliance.cubevs.egress.tls_stream import TlsStream
from appliance.domain.egress import TunnelTls


async def secured(stream: Stream, tls: TunnelTls) -> Stream:
    """Return TLS on `stream`, once the proxy has shown that it is who it should be. Raises Refused and OSError."""
    try:
        context = _context(tls.ca_cert)
    except (ValueError, ssl.SSLError) as error:
        raise Refused(
            Reason.TUNNEL, "The certificates by which to trust the SOCKS5 proxy of this sandbox cannot be read."
        ) from error
    made = TlsStream(stream, context, server_hostname=tls.server_name)
    try:
        await made.handshake()
    except ssl.SSLCertVerificationError as error:
        raise Refused(
            Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox cannot be verified: {error.verify_message}."
        ) from error
    except ssl.SSLError as error:
        raise Refused(Reason.TUNNEL, "The SOCKS5 proxy of this sandbox does not speak TLS 1.2 or later.") from error
    return made


@lru_cache(maxsize=128)
def _context(ca_cert: str | None) -> ssl.SSLContext:
    """Return whom to trust. Kept, since to read the node's own trust store takes some 10 ms.

    Raises ValueError and ssl.SSLError where there is no certificate to be read.
    """
    if ca_cert is None:
        context = ssl.create_default_context()
    elif ca_cert.isascii():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca_cert)
    else:
        raise ValueError("PEM is ASCII")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
