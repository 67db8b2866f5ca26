"""Settings are read once, in a process's `main.py`: a TOML file, and secrets from systemd's credentials directory."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of each process's settings: frozen, and a key nobody knows is an error, since it is most often a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SettingsError(Exception):
    """The configuration cannot be used. `str()` names the file and the key."""


_S = TypeVar("_S", bound=Settings)


def load(model: type[_S], path: Path) -> _S:
    """Return the settings in the TOML file at `path`, or raise SettingsError."""
    try:
        with path.open("rb") as file:
            return model.model_validate(tomllib.load(file))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path}: {problems}") from error


def read_secret(directory: Path, name: str) -> str:
    """Return one secret of a credentials directory, without its trailing newline, or raise SettingsError."""
    path = directory / name
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"secret {name}: {path}: {error.strerror}") from error
    if not secret:
        raise SettingsError(f"secret {name}: {path} is empty")
    return secret
