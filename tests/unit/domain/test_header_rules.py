from __future__ import annotations

from collections.abc import Mapping

import pytest

from appliance.domain.egress import HeaderRule
from appliance.domain.errors import InvalidRequest
from appliance.domain.header_rules import Named, Transform, check_rules, filled

CANARY = "hunter2"
CONNECTION = "cannot be set: it belongs to the connection. Leave it to the client."


def refusal(headers: Mapping[str, str], *, domain: str = "a.com") -> str:
    with pytest.raises(InvalidRequest) as refused:
        check_rules({domain: (Transform(headers),)})
    assert CANARY not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("", "Rule domain must not be empty."),
        ("a" * 125 + ".com", f'Rule domain "{"a" * 125}.com" exceeds maximum length of 128 characters.'),
        *(
            (domain, f'Rule domain "{domain}" is not a valid domain name.')
            for domain in ("a b", "*.a.com", "*", "1.1.1.1", "1.1.1.0/24", "::1", "a..com", "http://a.com", "a.com:80")
        ),
    ],
)
def test_a_domain_is_one_name(domain: str, message: str) -> None:
    assert refusal({}, domain=domain) == message


@pytest.mark.parametrize("domain", ["a.com", "A-b.Example.COM", "_x.a.com", "localhost", "a.com."])
def test_names_of_hosts_are_domains(domain: str) -> None:
    check_rules({domain: (Transform({"X": "1"}),)})


def test_there_are_limits_to_domains_transforms_and_headers() -> None:
    rule = (Transform({"X": "1"}),)
    check_rules({f"{number}.com": rule for number in range(10)})
    for rules, message in (
        ({f"{number}.com": rule for number in range(11)}, "Network rules can have at most 10 domains."),
        ({"a.com": rule * 2}, 'Domain "a.com" can have at most 1 transform rule.'),
        ({"a.com": rule, "A.com.": rule}, 'Domain "A.com." can have at most 1 transform rule.'),
    ):
        with pytest.raises(InvalidRequest) as refused:
            check_rules(rules)
        assert refused.value.message == message
    check_rules({"a.com": (Transform({f"X-{number}": "" for number in range(20)}),), "b.com": ()})
    headers = {f"X-{number}": CANARY for number in range(21)}
    assert refusal(headers) == 'Domain "a.com" can have at most 20 headers per rule.'


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", 'Header name in rule for domain "a.com" must not be empty.'),
        ("a b", 'Header name "a b" in rule for domain "a.com" must contain only valid HTTP token characters.'),
        ("a:", 'Header name "a:" in rule for domain "a.com" must contain only valid HTTP token characters.'),
        ("a\r\nb", 'Header name "a\\r\\nb" in rule for domain "a.com" must contain only valid HTTP token characters.'),
        ("a" * 65, f'Header name "{"a" * 65}" in rule for domain "a.com" exceeds maximum length of 64 characters.'),
        *(
            (name, f'Header name "{name}" in rule for domain "a.com" {CONNECTION}')
            for name in (
                *("Host", "content-length", "Transfer-Encoding", "connection", "TE", "trailer", "upgrade"),
                *("keep-alive", "Proxy-Authorization", "proxy-x"),
            )
        ),
    ],
)
def test_names_of_headers_are_tokens_that_do_not_frame_the_request(name: str, message: str) -> None:
    assert refusal({name: CANARY}) == message


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\x7f", "é"])
def test_a_value_has_no_characters_that_end_it(character: str) -> None:
    assert refusal({"X": f"{CANARY}{character}"}) == (
        'Value for header "X" in rule for domain "a.com" contains invalid characters.'
    )


def test_a_value_has_a_limit() -> None:
    check_rules({"a.com": (Transform({"X": "v" * 2048}),)})
    assert refusal({"X": CANARY + "v" * 2048}) == (
        'Value for header "X" in rule for domain "a.com" exceeds maximum length of 2048 characters.'
    )


def test_a_header_stands_there_once() -> None:
    assert refusal({"X": CANARY, "x": "1"}) == ('Domain "a.com" has a header twice: upper and lower case are the same.')


@pytest.mark.parametrize(
    "value",
    [
        "${e2b.secrets.",
        "${e2b.secrets.}",
        "${e2b.secrets.hunter2",
        "${e2b.secrets.a hunter2}",
        "${e2b.secrets.sec_hunter2}",
        "${e2b.identity.tokens.}",
        "${e2b.identity.tokens.${e2b.secrets.hunter2}}",
    ],
)
def test_a_malformed_placeholder_is_refused_without_repeating_it(value: str) -> None:
    assert refusal({"X": value}) == "Network transform header contains a malformed E2B placeholder."


def test_what_rules_name_is_told_once_and_secrets_in_lower_case() -> None:
    rules = {
        "a.com": (Transform({"X": "${e2b.secrets.One} ${e2b.secrets.one}", "Y": "${e2b.identity.tokens.Aws}"}),),
        "b.com": (Transform({"X": "${e2b.secrets.two} ${other} ${e2b.else.x}"}),),
    }
    assert check_rules(rules) == Named(secrets=("one", "two"), tokens=("Aws",))


def test_a_domain_may_use_so_many_secrets() -> None:
    most = {f"X-{number}": "".join(f"${{e2b.secrets.s{number * 2 + one}}}" for one in range(2)) for number in range(16)}
    assert len(check_rules({"a.com": (Transform(most),)}).secrets) == 32
    assert refusal({**most, "Y": "${e2b.secrets.more}"}) == 'Rule domain "a.com" references more than 32 secrets.'


def fill(value: str, **secrets: str) -> HeaderRule:
    return filled("A.com.", {"X": value}, secrets=secrets, tokens={"aws": "jwt"})


def test_placeholders_give_way_to_what_they_stand_for() -> None:
    rule = fill("a ${e2b.secrets.One}-${e2b.identity.tokens.aws} ${e2b.other.x}", one="${e2b.secrets.two}")
    assert rule == HeaderRule("a.com", {"X": "a ${e2b.secrets.two}-jwt ${e2b.other.x}"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("${e2b.secrets.gone} ${e2b.secrets.one}", 'the secret "gone" does not exist'),
        ("${e2b.identity.tokens.gone}", 'the workload token "gone" does not exist'),
        ("${e2b.secrets.lines}", 'the secret "lines" has characters that no header can hold, such as a line end'),
        ("${e2b.secrets.long}", 'the header "X" has more than 16384 characters with its secrets'),
    ],
)
def test_what_cannot_be_filled_closes_the_domain(value: str, reason: str) -> None:
    rule = fill(value, one=CANARY, lines=f"{CANARY}\r\nX: y", long=CANARY * 4000)
    assert rule == HeaderRule("a.com", {}, reason)
    assert CANARY not in reason


def test_all_headers_of_a_domain_have_a_limit_together() -> None:
    headers = {f"X-{number}": "${e2b.secrets.long}" for number in range(5)}
    rule = filled("a.com", headers, secrets={"long": "x" * 16_000}, tokens={})
    assert (rule.headers, rule.refusal) == ({}, "the headers have more than 65536 characters with their secrets")


def test_a_rule_shows_no_value() -> None:
    rules = {"a.com": (Transform({"X": CANARY}),)}
    assert CANARY not in repr(rules)
    assert CANARY not in repr(filled("a.com", {"X": CANARY}, secrets={}, tokens={}))
