"""Authorities of sandboxes, the seed they come from, and the certificates that are made with them."""

from __future__ import annotations

import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.common.clock import FakeClock
from appliance.cubevs.egress import certificates, seed
from appliance.cubevs.egress.authority import Authority, sandbox_key
from appliance.cubevs.egress.certificates import BURST, MAX_NAMES, Certificates
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import SandboxRules
from appliance.domain.egress import HeaderRule

SEED = bytes(range(32))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PUBLIC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def authority(sandbox_id: str = "one", node: bytes = SEED) -> Authority:
    return Authority(sandbox_id, sandbox_key(node, sandbox_id))


def rules(sandbox_id: str = "one", *names: str) -> SandboxRules:
    return SandboxRules(
        sandbox_id=sandbox_id,
        allow_domains=("*",),
        sandbox_network=IPv4Network("10.88.0.0/16"),
        header_rules=tuple(HeaderRule(name, {"X-Key": "a"}) for name in names or ("example.com",)),
        authority_key=sandbox_key(SEED, sandbox_id).hex(),
    )


class TestSeed:
    def test_it_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "egress-seed"
        made = seed.node_seed(path)
        assert len(made) == seed.SEED_BYTES
        assert seed.node_seed(path) == made
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [found.name for found in tmp_path.iterdir()] == ["egress-seed"]
        assert seed.node_seed(tmp_path / "other") != made

    def test_one_that_was_begun_is_made_anew(self, tmp_path: Path) -> None:
        (tmp_path / "egress-seed.new").write_bytes(b"half")
        assert len(seed.node_seed(tmp_path / "egress-seed")) == seed.SEED_BYTES

    def test_what_is_no_seed_is_not_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "egress-seed"
        path.write_bytes(b"short")
        with pytest.raises(ValueError, match="does not hold 32 bytes"):
            seed.node_seed(path)
        assert path.read_bytes() == b"short"


def test_an_authority_is_the_same_for_a_sandbox_and_another_for_every_other() -> None:
    assert authority().certificate() == authority().certificate()
    found = {authority(name, node).certificate() for name in ("one", "two") for node in (SEED, bytes(32))}
    assert len(found) == 4


def test_an_authority_is_valid_for_any_clock_and_signs_no_other_authorities() -> None:
    made = x509.load_pem_x509_certificate(authority("i" * 100).certificate().encode())
    assert made.not_valid_before_utc.year == 2000
    assert made.not_valid_after_utc.year == 2049
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_certificate_is_for_one_name_and_a_short_time() -> None:
    made = x509.load_pem_x509_certificate(authority().issue("example.com", PUBLIC_KEY, NOW))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("example.com")]
    assert made.not_valid_before_utc < NOW < made.not_valid_after_utc <= NOW + timedelta(days=2)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    trusted = x509.load_pem_x509_certificate(authority().certificate().encode())
    made.verify_directly_issued_by(trusted)
    with pytest.raises(ValueError, match="does not match"):
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority("two").certificate().encode()))


class TestCertificates:
    def test_one_is_kept_until_half_of_its_time_is_over(self) -> None:
        clock = FakeClock()
        made = Certificates(clock)
        first = made.context(rules(), "example.com")
        assert first.minimum_version is ssl.TLSVersion.TLSv1_2
        clock.advance(timedelta(hours=23))
        assert made.context(rules(), "example.com") is first
        clock.advance(timedelta(hours=2))
        assert made.context(rules(), "example.com") is not first
        assert made.made == 2

    def test_each_sandbox_has_its_own(self) -> None:
        made = Certificates(FakeClock())
        assert made.context(rules("one"), "example.com") is not made.context(rules("two"), "example.com")

    def test_nothing_is_signed_that_no_rule_is_for(self) -> None:
        made = Certificates(FakeClock())
        for name in ("other.org", "www.example.com"):
            with pytest.raises(Refused):
                made.context(rules(), name)
        with pytest.raises(Refused):
            made.context(rules().model_copy(update={"authority_key": ""}), "example.com")
        assert made.made == 0

    def test_ten_thousand_names_cost_a_bounded_number_of_signatures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Certificates, "_made", lambda self, *_: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        clock = FakeClock()
        made = Certificates(clock)
        names = [f"n{number}.example.com" for number in range(10_000)]
        many = rules("one").model_copy(update={"header_rules": tuple(HeaderRule(name, {}) for name in names)})
        refusals = []
        for name in names:
            try:
                made.context(many, name)
            except Refused as refused:
                refusals.append(refused.reason)
        assert refusals == [Reason.TOO_MANY] * (len(names) - BURST)
        assert made.context(rules("two"), "example.com"), "the others have their own allowance"
        clock.advance(timedelta(seconds=1))
        assert made.context(many, names[-1])
        with pytest.raises(Refused):
            made.context(many, names[-2])

    def test_what_is_kept_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(certificates, "MAX_SANDBOXES", 2)
        clock = FakeClock()
        made = Certificates(clock)
        first = made.context(rules("one"), "example.com")
        for other in ("two", "three"):
            made.context(rules(other), "example.com")
        assert made.context(rules("one"), "example.com") is not first
        names = [f"n{number}.example.com" for number in range(MAX_NAMES + 1)]
        many = rules("four", *names)
        kept = [made.context(many, name) for name in names]
        assert made.context(many, names[-1]) is kept[-1]
        assert made.context(many, names[0]) is not kept[0]


def test_secrets_are_in_no_text_that_could_be_logged(tmp_path: Path) -> None:
    rule = HeaderRule("example.com", {"X-Key": "canary"})
    made = rules().model_copy(update={"header_rules": (rule,)})
    assert "canary" not in repr(made) + str(made) + repr(rule)
    assert made.authority_key not in repr(made)
    text = made.model_dump_json()
    assert SandboxRules.model_validate_json(text) == made
    for spoilt in (text[:-1], text.replace('"canary"', '["canary"]'), text.replace('"one"', '["canary"]')):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - which one, pydantic says
            SandboxRules.model_validate_json(spoilt)
        assert "canary" not in str(caught.value)
    assert replace(rule, refusal="gone").refusal == "gone"
