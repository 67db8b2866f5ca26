"""Content codings of /files."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from guest_agent.errors import HttpError

_GZIP = 31
"""zlib's window size for the gzip format."""
_PIECE_BYTES = 256 * 1024


def response_coding(accept_encoding: str | None) -> str:
    """Return `gzip` or `identity` for a download, or raise HttpError 406.

    A client that asks for gzip alone gets it. One that lists several codings, as HTTP libraries do unasked, leaves the
    choice to us, and we choose identity: compressing costs more than the way to the node.
    """
    if accept_encoding is None:
        return "identity"
    weights = _weights(accept_encoding)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    identity = weights.get("identity", 0.0 if weights.get("*") == 0.0 else 1.0)
    if gzip > 0 and (weights.keys() <= {"gzip", "identity"} and gzip >= weights.get("identity", 0.0)):
        return "gzip"
    if identity > 0:
        return "identity"
    if gzip > 0:
        return "gzip"
    raise HttpError(406, f"no acceptable encoding found, supported: [identity gzip], asked: {accept_encoding}")


def _weights(header: str) -> dict[str, float]:
    weights = {}
    for item in header.lower().split(","):
        name, _, parameter = item.strip().partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            weight = float(value) if key == "q" else 1.0
        except ValueError:
            weight = 0.0
        if name.strip():
            weights[name.strip()] = weight
    return weights


async def decoded(body: AsyncIterator[bytes], content_encoding: str | None) -> AsyncIterator[bytes]:
    """Yield an upload's bytes without its content coding. Raise HttpError 400 for one that is not gzip or identity."""
    coding = (content_encoding or "identity").strip().lower()
    if coding == "identity":
        async for chunk in body:
            yield chunk
        return
    if coding != "gzip":
        raise HttpError(400, f"unsupported Content-Encoding: {content_encoding}")
    inflater = zlib.decompressobj(wbits=_GZIP)
    async for chunk in body:
        rest = chunk
        while rest:
            # In pieces: a small body may inflate to more than memory holds.
            try:
                yield inflater.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise HttpError(400, f"invalid gzip body: {error}") from error
            rest = inflater.unconsumed_tail
    if not inflater.eof:
        raise HttpError(400, "the gzip body is not complete")
