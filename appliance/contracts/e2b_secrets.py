"""Public shapes of secrets. No answer carries a value."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class NewSecret(BaseModel):
    # An error shows what was wrong with the request, which must not be the value.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    name: str = Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")
    value: str = Field(repr=False, min_length=1)
    metadata: dict[str, str] | None = None


class SecretUpdate(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    value: str = Field(repr=False, min_length=1)
    metadata: dict[str, str] | None = None


class Secret(BaseModel):
    model_config = ConfigDict(frozen=True)

    secretID: str
    name: str
    currentVersion: int
    metadata: dict[str, str]
    createdAt: datetime
    updatedAt: datetime
