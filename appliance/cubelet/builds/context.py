"""What steps leave behind besides files: the environment, user and directory of the next step and of sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from appliance.cubelet.services.template_meta import TemplateMeta
from appliance.storage.base import ImageConfig

DEFAULT_USER = "user"
DEFAULT_WORKDIR = "/home/user"


@dataclass(frozen=True, slots=True)
class StepContext:
    """As whom, where and with which variables the next command runs."""

    user: str = DEFAULT_USER
    workdir: str = DEFAULT_WORKDIR
    env: Mapping[str, str] = field(default_factory=dict)

    def with_env(self, variables: Mapping[str, str]) -> StepContext:
        return replace(self, env={**self.env, **variables})

    def with_workdir(self, workdir: str) -> StepContext:
        return replace(self, workdir=workdir)

    def with_user(self, user: str) -> StepContext:
        return replace(self, user=user)


def of_image(config: ImageConfig) -> StepContext:
    """Return where E2B starts: of the image, only its variables count."""
    return StepContext(env=environment(config))


def of_template(meta: TemplateMeta) -> StepContext:
    """Return what a template's sandboxes have."""
    return StepContext(
        user=meta.default_user or DEFAULT_USER, workdir=meta.default_workdir or DEFAULT_WORKDIR, env=meta.env
    )


def environment(config: ImageConfig) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in config.env if "=" in entry)
