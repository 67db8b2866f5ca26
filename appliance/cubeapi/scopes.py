"""Which scope of an API key a route asks for, by the first word of its path."""

from __future__ import annotations

import re
from collections.abc import Mapping

from appliance.contracts.e2b_network import Egress
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.mapping_network import names_secrets
from appliance.domain.access import Scope
from appliance.domain.errors import Forbidden

_VERSION = re.compile(r"v\d+")
_SCOPES: Mapping[str, Scope | None] = {
    "sandboxes": Scope.SANDBOXES,
    "snapshots": Scope.SANDBOXES,
    "templates": Scope.TEMPLATES,
    "default-templates": Scope.TEMPLATES,
    "volumes": Scope.VOLUMES,
    "secrets": Scope.SECRETS,
    "api-keys": Scope.KEYS,
    # Whose key this is, which any key may know.
    "teams": None,
    "access-tokens": None,
}


def scope_of(path: str) -> Scope | None:
    """Return the scope that a route's path needs, None for any key.

    A route that nobody thought of raises Forbidden, on every call: it is to be entered above.
    """
    words = [word for word in path.split("/") if word and not _VERSION.fullmatch(word)]
    if words[:1] == ["teams"] and len(words) > 1:
        return Scope.SANDBOXES
    try:
        return _SCOPES[words[0]]
    except (KeyError, IndexError):
        raise Forbidden(f"no scope of API keys covers {path}") from None


def require_scope(key: ResolvedKey, path: str) -> None:
    """Raise Forbidden unless the key may be used for the route."""
    scope = scope_of(path)
    if scope is not None:
        _require(key, scope, "")


def require_secrets(key: ResolvedKey, rules: Egress) -> None:
    """Raise Forbidden where header rules name secrets and the key is not for these.

    Whoever names one can have it sent to a server of their own.
    """
    if names_secrets(rules):
        _require(key, Scope.SECRETS, ", which header rules that name a secret need")


def _require(key: ResolvedKey, scope: Scope, what_for: str) -> None:
    if key.scopes is not None and scope not in key.scopes:
        raise Forbidden(
            f"this API key lacks the scope '{scope}'{what_for}; use another, or make one with"
            " `cubemastercli key create --scope`"
        )
