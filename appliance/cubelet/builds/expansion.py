"""`$NAME` in the values of steps, replaced as a shell would within double quotes, without a shell: pure.

Nothing else of a shell's is meant: `$(...)`, backquotes and backslashes stay as they are, as with E2B.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from appliance.domain.errors import InvalidRequest

_REFERENCE = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<rule>[-+])(?P<word>[^{}$]*))?\}"
    r"|(?P<odd>\{))"
)


def has_references(text: str) -> bool:
    return _REFERENCE.search(text) is not None


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return `text` with its variables' values; unset ones are empty. `${A:-word}` and `${A:+word}` are Docker's."""

    def value(match: re.Match[str]) -> str:
        if match["odd"]:
            raise InvalidRequest(f"{text!r}: of `${{...}}`, only a name, `:-` and `:+` are understood")
        found = variables.get(match["bare"] or match["braced"], "")
        match match["rule"]:
            case "-":
                return found or str(match["word"])
            case "+":
                return str(match["word"]) if found else ""
        return found

    return _REFERENCE.sub(value, text)
