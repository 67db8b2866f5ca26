import hashlib
import struct

from image_build.java_trust import key_store


def test_a_store_says_how_many_certificates_it_has_and_ends_with_its_digest() -> None:
    store = key_store([b"second", b"first"])
    assert struct.unpack(">III", store[:12]) == (0xFEEDFEED, 2, 2)
    assert store.index(b"first") < store.index(b"second")
    salted = "changeit".encode("utf-16-be") + b"Mighty Aphrodite" + store[:-20]
    assert store[-20:] == hashlib.sha1(salted).digest()


def test_the_same_certificates_give_the_same_store() -> None:
    assert key_store([b"a", b"b"]) == key_store([b"b", b"a"])
