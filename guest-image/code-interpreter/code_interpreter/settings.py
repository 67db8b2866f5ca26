"""What the supervisor may set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses of the neighbours inside the sandbox, and where code runs by default."""

    jupyter_url: str
    envs_url: str
    home: Path
    inherited_environment: Mapping[str, str]  # of this process, and so of the kernels too

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        return cls(
            jupyter_url=environment.get("CODE_INTERPRETER_JUPYTER_URL", "http://127.0.0.2:49998"),
            envs_url=environment.get("CODE_INTERPRETER_ENVS_URL", "http://127.0.0.1:49983/envs"),
            home=Path(environment.get("CODE_INTERPRETER_HOME", "/home/user")),
            inherited_environment=dict(environment),
        )
