"""Sizes as operators write them: `512M`, `1G`, `1.5G`; binary units, `i` and `B` optional."""

from __future__ import annotations

import re

import typer

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]?)i?b?", re.IGNORECASE)
_MIB_IN = {"k": 1 / 1024, "m": 1.0, "": 1.0, "g": 1024.0, "t": 1024.0**2}


def parse_mib(text: str) -> int:
    """Return whole MiB; a bare number is MiB already. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a size; write it like 512M or 1G")
    mib = float(match["number"]) * _MIB_IN[match["unit"].lower()]
    if mib < 1 or mib != int(mib):
        raise ValueError(f"'{text}' is not a whole number of MiB")
    return int(mib)


def mib_option(value: str) -> int:
    """Parse an option for typer, which passes defaults through here too."""
    try:
        return parse_mib(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
