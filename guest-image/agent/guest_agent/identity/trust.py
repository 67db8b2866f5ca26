"""What this machine trusts besides what its image does: the authority of the node's egress proxy for this sandbox.

Programs look in different places. Most read one file of all authorities, OpenSSL's own default is a directory with
files named for hashes, Java has a format of its own, and some bring authorities of their own and can be led to the
system's by a variable only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from guest_agent.identity import java_trust
from guest_agent.identity.certificates import der_certificates, pem_certificates, subject_hashes
from guest_agent.plainfile import read

CERTIFICATE = "/usr/local/share/ca-certificates/e2b-ca.crt"
"""Where E2B has it, and where Debian's update-ca-certificates takes it from."""
_DIRECTORY = "/etc/ssl/certs"
_BUNDLES = (f"{_DIRECTORY}/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Debian's and Alpine's, which an image without any gets; Red Hat's; OpenSSL's and the BSDs'."""
_JAVA_STORE = f"{_DIRECTORY}/java/cacerts"
_MAX_SAME_HASH = 10


def variables(root: str = "") -> dict[str, str]:
    """Return the environment of programs that do not look where the system's authorities are.

    Node.js has its own and adds a file to them. Python's requests and httpx have certifi's, other builds of OpenSSL
    than the image's look beside themselves: both take the system's instead, in which the authority is.
    """
    bundle = next((path for path in _BUNDLES if os.path.exists(root + path)), _BUNDLES[0])
    return {"NODE_EXTRA_CA_CERTS": CERTIFICATE, "SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle}


def install(pem: str, root: Path = Path("/")) -> None:
    """Trust the certificates in `pem`, which `pem_certificates` returned, and no longer those of the last call.

    What is there already is not written again. Raises OSError.
    """
    at = str(root).rstrip("/")
    former = _former(at)
    for bundle in _bundles(at):
        before = read(bundle) or ""
        after = _with(before, former, pem)
        if after != before:
            _replace(bundle, after.encode("utf-8", "surrogateescape"))
    if former != pem:
        _unlink_hashes(at, former)
        os.makedirs(os.path.dirname(at + CERTIFICATE), exist_ok=True)
        _replace(at + CERTIFICATE, pem.encode())
    _link_hashes(at, pem)
    _tell_java(at, pem)


def _former(root: str) -> str:
    """Return what the last call installed; nothing where somebody has changed that since."""
    with suppress(ValueError):
        return pem_certificates(read(root + CERTIFICATE) or "")
    return ""


def _with(bundle: str, former: str, pem: str) -> str:
    if former and former != pem:
        bundle = bundle.replace(former, "")
    if pem in bundle:
        return bundle
    return bundle + ("" if bundle.endswith("\n") or not bundle else "\n") + pem


def _bundles(root: str) -> list[str]:
    """Return the files that hold the system's authorities, each once, and by no symbolic link."""
    found = [os.path.realpath(root + path) for path in _BUNDLES if os.path.exists(root + path)]
    if not found:
        found = [root + _BUNDLES[0]]
        os.makedirs(root + _DIRECTORY, exist_ok=True)
    return list(dict.fromkeys(found))


def _replace(path: str, content: bytes) -> None:
    """Write the file so that whoever reads it meanwhile finds the former content or the new one."""
    temporary = f"{path}.e2b-new"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _tell_java(root: str, pem: str) -> None:
    store = os.path.realpath(root + _JAVA_STORE)
    if not os.path.exists(store):
        return
    before = Path(store).read_bytes()
    try:
        after = java_trust.with_certificates(before, der_certificates(pem))
    except ValueError:  # another kind of store, which the image's owner chose
        return
    if after != before:
        _replace(store, after)


def _link_hashes(root: str, pem: str) -> None:
    if not os.path.isdir(root + _DIRECTORY):
        return
    for name in subject_hashes(pem):
        for path in _slots(root, name):
            if _links_here(path):
                break
            if not os.path.lexists(path):
                os.symlink(CERTIFICATE, path)
                break


def _unlink_hashes(root: str, pem: str) -> None:
    for name in subject_hashes(pem):
        for path in _slots(root, name):
            if _links_here(path):
                os.unlink(path)


def _slots(root: str, name: str) -> Iterator[str]:
    """Yield the names that OpenSSL tries for a hash."""
    return (f"{root}{_DIRECTORY}/{name}.{number}" for number in range(_MAX_SAME_HASH))


def _links_here(path: str) -> bool:
    try:
        return os.readlink(path) == CERTIFICATE
    except OSError:
        return False
