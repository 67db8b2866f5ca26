"""What a build of E2B's template builder may start from: a template that the team sees, or an image of a registry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.templates import DEFAULT_TEAM
from appliance.domain.build_steps import BuildSource
from appliance.domain.errors import InvalidRequest, NotFound, TemplateNotReady
from appliance.domain.ids import BuildId, TeamId
from appliance.domain.registry_hosts import refuse_internal
from appliance.domain.template import BuildSpec, ReplicaState
from appliance.storage.reference import RegistryImage, parse_reference
from appliance.storage.registry import host_of

_STAND_INS = {
    "e2bdev/base": f"{DEFAULT_TEAM}/base",
    "e2bdev/code-interpreter": f"{DEFAULT_TEAM}/code-interpreter-v1",
}
"""E2B's own images, and the templates here that are made of the same parts."""


@dataclass(frozen=True, slots=True)
class Base:
    """An image, or a build with its spec."""

    image: str | None = None
    build_id: BuildId | None = None
    spec: BuildSpec | None = None


class BuildBases:
    def __init__(self, catalogue: Catalogue, *, internal_registries: Collection[str]) -> None:
        self._catalogue = catalogue
        self._internal_registries = frozenset(internal_registries)

    def find(self, uow: UnitOfWork, source: BuildSource, *, team_id: TeamId) -> Base:
        """Return what the source names, or raise InvalidRequest or NotFound."""
        if bool(source.image) == bool(source.template):
            raise InvalidRequest("Invalid request body: give one of fromImage and fromTemplate")
        if source.template:
            if source.registry_login is not None:
                raise InvalidRequest("fromImageRegistry is for fromImage; leave it out with fromTemplate")
            return self._template(uow, source.template, team_id=team_id)
        image = (source.image or "").strip()
        stand_in = _STAND_INS.get(image.removeprefix("docker.io/").removesuffix(":latest"))
        if stand_in is not None and source.registry_login is None:
            return self._template(uow, stand_in, team_id=team_id)
        return Base(image=self._registry_image(image))

    def _template(self, uow: UnitOfWork, reference: str, *, team_id: TeamId) -> Base:
        try:
            template = self._catalogue.startable(uow, reference, team_id=team_id)
        except TemplateNotReady as error:
            raise NotFound(f"a build cannot start from it yet: {error.message}") from error
        build = uow.builds.find(template.build_id)
        if build is None or all(one.state is not ReplicaState.READY for one in uow.builds.replicas(build.build_id)):
            raise NotFound(f"a build cannot start from template '{reference}': no node holds it now")
        return Base(build_id=build.build_id, spec=build.spec)

    def _registry_image(self, text: str) -> str:
        """Return a reference to a registry that tenants may name. The host's own files are none of theirs."""
        scheme = text.partition(":")[0]
        if scheme in ("oci", "docker-archive"):
            raise InvalidRequest(f"Invalid fromImage: '{scheme}:' is for operators; name an image of a registry")
        reference = parse_reference(text)
        if not isinstance(reference, RegistryImage):
            raise InvalidRequest("Invalid fromImage: name an image of a registry")
        refuse_internal(host_of(reference), allowed=self._internal_registries)
        return reference.name
