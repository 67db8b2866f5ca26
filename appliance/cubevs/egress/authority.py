"""A certificate authority for each sandbox with header rules: its guest trusts it, the proxy answers with it.

Its key comes from a seed of the node and the sandbox's id: the same after a pause or a restart, another for every other
sandbox and for a fork. The certificate is the same too, to its last byte. It is limited to no names, since the guest
has it before rules that are set later; what may be signed is held by whoever calls `issue`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.common import p256

# Of the authority, for any clock that a guest may have.
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(2049, 12, 31, tzinfo=UTC)
_EARLY: Final = timedelta(days=1)
LEAF_LIFETIME: Final = timedelta(days=2)


def sandbox_key(seed: bytes, sandbox_id: str) -> bytes:
    """Return what the authority of a sandbox is made of. The seed cannot be found from it."""
    return p256.wide_secret(seed, purpose=b"cube egress authority " + sandbox_id.encode())


class Authority:
    """The authority of one sandbox. `key` is as `sandbox_key` returns it."""

    def __init__(self, sandbox_id: str, key: bytes) -> None:
        self._key = p256.private_key(key)
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Cube"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Egress of {sandbox_id}"[:64]),
            ]
        )
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())

    def certificate(self) -> str:
        """Return what the guest is to trust, as PEM."""
        made = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(int.from_bytes(self._identifier.digest[:16], "big") >> 1 | 1)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str, public_key: ec.EllipticCurvePublicKey, now: datetime) -> bytes:
        """Return a certificate of a server that is `name`, as PEM, for `LEAF_LIFETIME` from `now`."""
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))  # a name may be too long for one; who matters reads the critical one below
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLY)
            .not_valid_after(now + LEAF_LIFETIME)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
