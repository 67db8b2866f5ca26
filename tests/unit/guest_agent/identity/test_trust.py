"""What a machine trusts besides its image's authorities, as the programs that look for it find it."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import ssl
import stat
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress.authority import Authority
from guest_agent.identity import java_trust, trust
from guest_agent.identity.certificates import pem_certificates, subject_hash, subject_hashes
from image_build.java_trust import key_store

BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
OWN = Path("usr/local/share/ca-certificates/e2b-ca.crt")
IMAGES = "# of the image\n"


def authority(sandbox: str) -> str:
    return Authority(sandbox, sandbox.encode()).certificate()


ONE, TWO = authority("one"), authority("two")


def certificate(*subject: x509.NameAttribute[str]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "subject",
    [
        [x509.NameAttribute(NameOID.COMMON_NAME, "plain")],
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "  Two   Spaces  and CASE "),
            x509.NameAttribute(NameOID.COMMON_NAME, "z\u00e4hlt \u00c4 nicht" + "x" * 40),
        ],
        [],
    ],
)
def test_a_hash_is_the_one_that_openssl_looks_for(subject: list[x509.NameAttribute[str]]) -> None:
    der = certificate(*subject)
    asked = subprocess.run(
        ("openssl", "x509", "-inform", "DER", "-noout", "-hash"), input=der, capture_output=True, timeout=30, check=True
    )
    assert subject_hash(der) == asked.stdout.decode().strip()


def test_certificates_are_taken_out_of_what_is_around_them() -> None:
    crumpled = ONE.replace("\n", "\r\n")
    assert pem_certificates(f"a\n{crumpled} b {TWO.strip()}") == ONE + TWO
    assert len(set(subject_hashes(ONE + TWO))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate",
        ONE.replace("CERTIFICATE", "PRIVATE KEY"),
        ONE[:-30],
        ONE.replace("MII", "MI", 1),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ONE + "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_said(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller gives it its words
        pem_certificates(text)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_hash_or_are_no_certificate(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    try:
        pem_certificates(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----")
    except ValueError:
        return
    pytest.fail("made a certificate by chance")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / BUNDLE.parent).mkdir(parents=True)
    (tmp_path / BUNDLE).write_text(IMAGES)
    return tmp_path


def links(root: Path) -> list[str]:
    return sorted(path.name for path in (root / BUNDLE.parent).iterdir() if path.is_symlink())


def test_an_authority_comes_to_the_images_own_and_another_takes_its_place(root: Path) -> None:
    trust.install(ONE, root)
    assert (root / BUNDLE).read_text() == IMAGES + ONE
    assert (root / OWN).read_text() == ONE
    assert links(root) == [f"{subject_hashes(ONE)[0]}.0"]
    trust.install(TWO, root)
    assert (root / BUNDLE).read_text() == IMAGES + TWO
    assert (root / OWN).read_text() == TWO
    assert links(root) == [f"{subject_hashes(TWO)[0]}.0"]
    assert stat.S_IMODE((root / BUNDLE).stat().st_mode) == stat.S_IMODE((root / OWN).stat().st_mode) == 0o644
    assert sorted(path.name for path in (root / BUNDLE.parent).iterdir() if not path.is_symlink()) == [BUNDLE.name]


def test_the_same_authority_again_writes_nothing(root: Path) -> None:
    trust.install(ONE, root)
    before = [(root / path).stat() for path in (BUNDLE, OWN)]
    trust.install(ONE, root)
    assert [(root / path).stat() for path in (BUNDLE, OWN)] == before


def test_what_the_image_s_own_tools_rebuilt_is_not_doubled(root: Path) -> None:
    trust.install(ONE, root)
    (root / BUNDLE).write_text(ONE + IMAGES.rstrip())
    trust.install(ONE, root)
    assert (root / BUNDLE).read_text() == ONE + IMAGES.rstrip()
    trust.install(TWO, root)
    assert (root / BUNDLE).read_text() == IMAGES + TWO


def test_what_somebody_made_of_the_last_one_is_no_hindrance(root: Path) -> None:
    trust.install(ONE, root)
    (root / OWN).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    trust.install(TWO, root)
    assert (root / OWN).read_text() == TWO
    assert (root / BUNDLE).read_text().endswith(TWO)


def test_an_image_without_authorities_gets_one(tmp_path: Path) -> None:
    trust.install(ONE, tmp_path)
    assert (tmp_path / BUNDLE).read_text() == ONE
    assert trust.variables(str(tmp_path))["SSL_CERT_FILE"] == f"/{BUNDLE}"


def test_the_places_of_other_distributions_are_taken_and_links_are_kept(tmp_path: Path) -> None:
    red_hat = tmp_path / "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
    red_hat.parent.mkdir(parents=True)
    red_hat.write_text(IMAGES)
    link = tmp_path / "etc/pki/tls/certs/ca-bundle.crt"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(red_hat, link.parent))
    trust.install(ONE, tmp_path)
    assert link.is_symlink()
    assert red_hat.read_text() == IMAGES + ONE
    assert not (tmp_path / BUNDLE).exists()
    assert trust.variables(str(tmp_path))["REQUESTS_CA_BUNDLE"] == "/etc/pki/tls/certs/ca-bundle.crt"


def test_alpines_two_names_of_one_file_are_one(root: Path) -> None:
    (root / "etc/ssl/cert.pem").symlink_to("certs/ca-certificates.crt")
    trust.install(ONE, root)
    assert (root / BUNDLE).read_text() == IMAGES + ONE
    assert (root / "etc/ssl/cert.pem").is_symlink()


def test_another_certificate_with_the_same_hash_stays(root: Path) -> None:
    name = subject_hashes(ONE)[0]
    (root / BUNDLE.parent / f"{name}.0").write_text("another's")
    trust.install(ONE, root)
    assert links(root) == [f"{name}.1"]
    trust.install(TWO, root)
    assert (root / BUNDLE.parent / f"{name}.0").read_text() == "another's"


def test_a_failure_leaves_the_bundle_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        trust.install(ONE, root)
    assert [path.name for path in (root / BUNDLE.parent).iterdir()] == [BUNDLE.name]
    assert (root / BUNDLE).read_text() == IMAGES


def test_python_trusts_by_the_file_and_openssl_by_the_directory(root: Path) -> None:
    trust.install(ONE, root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (root / BUNDLE).write_text(ONE)
    context.load_verify_locations(root / BUNDLE)
    assert context.cert_store_stats()["x509_ca"] == 1
    # The link leads to where the certificate is in the guest, which is not here.
    (link,) = (root / BUNDLE.parent).glob("*.0")
    link.unlink()
    link.symlink_to(root / OWN)
    shown = subprocess.run(
        ("openssl", "verify", "-no-CAfile", "-no-CAstore", "-CApath", str(root / BUNDLE.parent), str(root / OWN)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert shown.stdout.endswith(": OK\n"), shown.stderr


def fingerprints(store: Path) -> set[str]:
    """Return what Java finds in a store."""
    shown = subprocess.run(
        ("keytool", "-list", "-keystore", str(store), "-storepass", "changeit"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    return {line.rpartition(" ")[2] for line in shown.stdout.splitlines() if "SHA-256" in line}


def fingerprint(pem: str) -> str:
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest())


@pytest.fixture
def java_store(root: Path) -> Path:
    store = root / "etc/ssl/certs/java/cacerts"
    store.parent.mkdir()
    store.write_bytes(key_store([ssl.PEM_cert_to_DER_cert(authority("the image's"))]))
    return store


def test_javas_store_has_it_in_place_of_the_last(root: Path, java_store: Path) -> None:
    images = ssl.PEM_cert_to_DER_cert(authority("the image's"))
    for pem, former in ((ONE, None), (TWO, ONE)):
        trust.install(pem, root)
        store = java_store.read_bytes()
        assert struct.unpack_from(">III", store) == (0xFEEDFEED, 2, 2)
        assert images in store
        assert ssl.PEM_cert_to_DER_cert(pem) in store
        assert former is None or ssl.PEM_cert_to_DER_cert(former) not in store


# What is in the store is held above; that Java reads it, too, is seen with a Java only, which no host of ours needs.
@pytest.mark.skipif(shutil.which("keytool") is None, reason="needs Java")
def test_java_trusts_it_too(root: Path, java_store: Path) -> None:
    images = fingerprint(authority("the image's"))
    trust.install(ONE, root)
    assert fingerprints(java_store) == {images, fingerprint(ONE)}
    before = java_store.stat()
    trust.install(ONE, root)
    assert java_store.stat() == before
    trust.install(TWO, root)
    assert fingerprints(java_store) == {images, fingerprint(TWO)}


@pytest.mark.parametrize("spoil", [lambda store: b"", lambda store: store[:-1], lambda store: b"PKCS12" + store])
def test_a_store_of_another_kind_is_left_alone(root: Path, java_store: Path, spoil: Callable[[bytes], bytes]) -> None:
    java_store.write_bytes(spoil(java_store.read_bytes()))
    before = java_store.read_bytes()
    trust.install(ONE, root)
    assert java_store.read_bytes() == before
    assert (root / BUNDLE).read_text() == IMAGES + ONE


@given(st.binary(max_size=100))
def test_any_bytes_are_a_store_or_are_none(data: bytes) -> None:
    content = struct.pack(">II", 0xFEEDFEED, 2) + data
    digest = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + content).digest()
    with suppress(ValueError):
        java_trust.with_certificates(content + digest, [])
