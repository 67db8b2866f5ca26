"""X.509 certificates, as far as the files that hold them need it: their PEM, and what OpenSSL names a file after."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----")
_SEQUENCE, _SET, _UTF8, _VERSION = 0x30, 0x31, 0x0C, 0xA0
# Printable, teletex, IA5, visible: of their text, OpenSSL ignores which one it is.
_ONE_BYTE = frozenset({0x13, 0x14, 0x16, 0x1A})


def pem_certificates(text: str) -> str:
    """Return the certificates in `text` as clean PEM. Raises ValueError where there is none, or one that is none."""
    found = []
    for match in _PEM.finditer(text):
        try:
            der = base64.b64decode("".join(match[1].split()), validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
        subject_hash(der)
        lines = base64.b64encode(der).decode()
        wrapped = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
        found.append(f"-----BEGIN CERTIFICATE-----\n{wrapped}\n-----END CERTIFICATE-----\n")
    if not found:
        raise ValueError("no certificate")
    return "".join(found)


def subject_hashes(pem: str) -> list[str]:
    """Return the hash of each certificate that `pem_certificates` returned."""
    return [subject_hash(der) for der in der_certificates(pem)]


def der_certificates(pem: str) -> list[bytes]:
    """Return each certificate that `pem_certificates` returned, as DER."""
    return [base64.b64decode("".join(match[1].split())) for match in _PEM.finditer(pem)]


def subject_hash(der: bytes) -> str:
    """Return what `openssl x509 -hash` prints. Raises ValueError for what is no certificate."""
    try:
        certificate, rest = _element(der, _SEQUENCE)
        signed, _ = _element(certificate, _SEQUENCE)
        if rest:
            raise ValueError("bytes behind the certificate")
        if signed[0] == _VERSION:
            _, _, signed = _next(signed)
        for _ in range(4):  # serial number, algorithm, issuer, validity
            _, _, signed = _next(signed)
        subject, _ = _element(signed, _SEQUENCE)
        canonical = b""
        while subject:
            part, subject = _element(subject, _SET)
            canonical += _encoded(_SET, _canonical(part))
    except IndexError as error:
        raise ValueError("a certificate that ends early") from error
    return f"{int.from_bytes(hashlib.sha1(canonical).digest()[:4], 'little'):08x}"  # noqa: S324 - OpenSSL's choice


def _canonical(attributes: bytes) -> bytes:
    """Return one part of a name as OpenSSL compares it: UTF-8, in lower case, with single spaces."""
    found = []
    while attributes:
        attribute, attributes = _element(attributes, _SEQUENCE)
        _, kind, value = _next(attribute)
        tag, text, _ = _next(value)
        if tag in _ONE_BYTE:
            text = text.decode("latin-1").encode()
        if tag in _ONE_BYTE or tag == _UTF8:
            # Of ASCII only, and no other spaces than ASCII's.
            tag, text = _UTF8, b" ".join(text.lower().split())
        found.append(_encoded(_SEQUENCE, _encoded(0x06, kind) + _encoded(tag, text)))
    return b"".join(found)


def _next(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the first element of `data` as (tag, content, what follows). Raises IndexError."""
    tag, size, at = data[0], data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if at + size > len(data):
        raise IndexError
    return tag, data[at : at + size], data[at + size :]


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the first element, which is of kind `tag`, and what follows it."""
    found, content, rest = _next(data)
    if found != tag:
        raise ValueError("no certificate")
    return content, rest


def _encoded(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
