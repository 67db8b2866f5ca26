"""Header rules: which headers a sandbox's requests for a domain get, as a caller writes them and as a node needs them.

Values may name secrets and workload tokens. What cannot be put in its place closes the domain, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.egress import HeaderRule, is_framing
from appliance.domain.errors import InvalidRequest
from appliance.domain.placeholders import Placeholder, PlaceholderKind, fill, placeholders

MAX_DOMAINS = 10
_MAX_DOMAIN = 128
_MAX_HEADERS = 20
_MAX_NAME = 64
_MAX_VALUE = 2048
_MAX_SECRETS = 32
_MAX_FILLED = 16 * 1024
"""Of one value with secrets in their places: they may be long, and named many times. No server takes more."""
_MAX_FILLED_DOMAIN = 64 * 1024

# The last label is no number, which tells a name from an address.
_DOMAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.)*[A-Za-z][A-Za-z0-9-]{0,62}\.?")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Transform:
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


DomainRules = Mapping[str, Sequence[Transform]]
"""By domain, as the caller wrote it."""


@dataclass(frozen=True, slots=True)
class Named:
    """What header rules need to be there, beside what stands in them."""

    secrets: tuple[str, ...]
    tokens: tuple[str, ...]


class _Missing(Exception):
    """Why a value cannot be filled. Says no secret."""


def check_rules(rules: DomainRules) -> Named:
    """Return what the rules name, or raise InvalidRequest. The texts are E2B's, and repeat no value."""
    if len(rules) > MAX_DOMAINS:
        raise InvalidRequest(f"Network rules can have at most {MAX_DOMAINS} domains.")
    seen = set()
    found: list[Placeholder] = []
    for domain, transforms in rules.items():
        _check_domain(domain)
        if len(transforms) > 1 or canonical(domain) in seen:
            raise InvalidRequest(f"Domain {_quoted(domain)} can have at most 1 transform rule.")
        seen.add(canonical(domain))
        mine = [one for transform in transforms for one in _check_headers(domain, transform.headers)]
        if len(_names(mine, PlaceholderKind.SECRET)) > _MAX_SECRETS:
            raise InvalidRequest(f"Rule domain {_quoted(domain)} references more than {_MAX_SECRETS} secrets.")
        found += mine
    return Named(_names(found, PlaceholderKind.SECRET), _names(found, PlaceholderKind.TOKEN))


def filled(
    domain: str, headers: Mapping[str, str], *, secrets: Mapping[str, str], tokens: Mapping[str, str]
) -> HeaderRule:
    """Return the rule for a node, with what its placeholders stand for; closed where that is not there."""

    def text_of(one: Placeholder) -> str:
        secret = one.kind is PlaceholderKind.SECRET
        text = (secrets if secret else tokens).get(one.name)
        if text is None:
            raise _Missing(f"the {'secret' if secret else 'workload token'} {_quoted(one.name)} does not exist")
        if not _VALUE.fullmatch(text):
            raise _Missing(f"the secret {_quoted(one.name)} has characters that no header can hold, such as a line end")
        return text

    texts = {}
    try:
        for name, value in headers.items():
            texts[name] = fill(value, text_of)
            if len(texts[name]) > _MAX_FILLED:
                raise _Missing(f"the header {_quoted(name)} has more than {_MAX_FILLED} characters with its secrets")
        if sum(map(len, texts.values())) > _MAX_FILLED_DOMAIN:
            raise _Missing(f"the headers have more than {_MAX_FILLED_DOMAIN} characters with their secrets")
    except _Missing as reason:
        return HeaderRule(canonical(domain), {}, str(reason))
    return HeaderRule(canonical(domain), texts)


def canonical(domain: str) -> str:
    return domain.lower().removesuffix(".")


def _check_domain(domain: str) -> None:
    if not domain:
        raise InvalidRequest("Rule domain must not be empty.")
    if len(domain) > _MAX_DOMAIN:
        raise InvalidRequest(f"Rule domain {_quoted(domain)} exceeds maximum length of {_MAX_DOMAIN} characters.")
    if not _DOMAIN.fullmatch(domain):
        raise InvalidRequest(f"Rule domain {_quoted(domain)} is not a valid domain name.")


def _check_headers(domain: str, headers: Mapping[str, str]) -> list[Placeholder]:
    if len(headers) > _MAX_HEADERS:
        raise InvalidRequest(f"Domain {_quoted(domain)} can have at most {_MAX_HEADERS} headers per rule.")
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidRequest(f"Domain {_quoted(domain)} has a header twice: upper and lower case are the same.")
    found: list[Placeholder] = []
    for name, value in headers.items():
        _check_name(domain, name)
        which = f"Value for header {_quoted(name)} in rule for domain {_quoted(domain)}"
        if not _VALUE.fullmatch(value):
            raise InvalidRequest(f"{which} contains invalid characters.")
        if len(value) > _MAX_VALUE:
            raise InvalidRequest(f"{which} exceeds maximum length of {_MAX_VALUE} characters.")
        found += placeholders(value)
    return found


def _check_name(domain: str, name: str) -> None:
    if not name:
        raise InvalidRequest(f"Header name in rule for domain {_quoted(domain)} must not be empty.")
    which = f"Header name {_quoted(name)} in rule for domain {_quoted(domain)}"
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{which} must contain only valid HTTP token characters.")
    if len(name) > _MAX_NAME:
        raise InvalidRequest(f"{which} exceeds maximum length of {_MAX_NAME} characters.")
    if is_framing(name):
        raise InvalidRequest(f"{which} cannot be set: it belongs to the connection. Leave it to the client.")


def _names(found: Sequence[Placeholder], kind: PlaceholderKind) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in found if one.kind is kind))


def _quoted(text: str) -> str:
    return json.dumps(text)
