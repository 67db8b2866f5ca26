"""What a build starts from: an image, imported, or another build that is ready on this node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.cubelet.builds.context import StepContext, of_image, of_template
from appliance.cubelet.builds.finalize import Startup
from appliance.cubelet.builds.progress import Build
from appliance.cubelet.services.template_meta import Readiness
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.domain.errors import DeadlineExceeded, InvalidRequest, TemplateNotReady
from appliance.domain.ids import BuildId
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.base import ImageConfig, ImageStore


@dataclass(frozen=True, slots=True)
class Origin:
    layers: tuple[Path, ...]
    """Lowest first."""
    upper: Path | None
    """A disk to copy; None starts with an empty one."""
    disk_size_mib: int
    context: StepContext
    config: ImageConfig
    startup: Startup
    """What it had running, where it was a template."""
    identity: tuple[str, ...]
    """What makes steps after it come out the same."""


class Origins:
    def __init__(self, *, images: ImageStore, store: TemplateStore, image_deadline: timedelta) -> None:
        self._images = images
        self._store = store
        self._image_deadline = image_deadline

    def template(self, build_id: str) -> ReadyTemplate:
        """Return the build to start from. Raises TemplateNotReady, or InvalidRequest where its disk cannot be used."""
        template = self._store.get(BuildId(build_id))
        if template is None:
            raise TemplateNotReady(build_id, "not on this node")
        if not template.meta.disk_is_whole:
            raise InvalidRequest(
                f"build '{build_id}' cannot be built upon, because its disk was not written out when it was made: it "
                "is a snapshot with memory, or of an older release; take one without memory, or build it again"
            )
        return template

    async def of(self, build: Build) -> Origin:
        if build.request.from_build is not None:
            return self._of_template(build, self.template(build.request.from_build))
        return await self._of_image(build)

    def _of_template(self, build: Build, template: ReadyTemplate) -> Origin:
        meta, wanted = template.meta, build.request.writable_layer_mib
        if meta.disk_size_mib > wanted:
            # A file system that a guest filled does not shrink.
            build.say(
                f"the disk has {meta.disk_size_mib} MiB, like the template's that this is built from, not {wanted} MiB",
                level="warn",
            )
        elif meta.disk_size_mib < wanted:
            build.say(f"the disk grows from {meta.disk_size_mib} MiB to {wanted} MiB")
        return Origin(
            layers=template.layers,
            upper=template.upper,
            disk_size_mib=max(meta.disk_size_mib, wanted),
            context=of_template(meta),
            config=ImageConfig(),
            startup=Startup(meta.start, meta.ready),
            identity=("build", meta.build_id),
        )

    async def _of_image(self, build: Build) -> Origin:
        request = build.request
        if request.image is None:
            raise InvalidRequest("a build needs an image or from_build")
        build.say(f"importing {request.image}")
        told = request.registry
        login = RegistryLogin(told.username, told.password, told.aws_region) if told is not None else None
        try:
            async with asyncio.timeout(self._image_deadline.total_seconds()):
                image = await self._images.import_image(request.image, login=login, progress=build.say)
        except TimeoutError as error:
            raise DeadlineExceeded("importing the image", self._image_deadline.total_seconds()) from error
        size_mib = sum(layer.size_bytes for layer in image.layers) >> 20
        build.say(f"image {image.source_digest[:19]} is {size_mib} MiB")
        return Origin(
            layers=tuple(layer.path for layer in image.layers),
            upper=None,
            disk_size_mib=request.writable_layer_mib,
            context=of_image(image.config),
            config=image.config,
            startup=Startup(None, Readiness()),
            identity=("image", image.source_digest, *(layer.path.name for layer in image.layers)),
        )
