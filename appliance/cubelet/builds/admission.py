"""Which builds this node takes: pure rules about a request as a whole."""

from __future__ import annotations

from appliance.contracts.node import BuildRequest
from appliance.cubelet.builds.steps import Step, parse_steps
from appliance.domain.errors import InvalidRequest
from appliance.storage.reference import RegistryImage, parse_reference


def admitted_steps(request: BuildRequest) -> tuple[Step, ...] | None:
    """Return the steps, None for an image as it is. Raises InvalidRequest."""
    if (request.image is None) == (request.from_build is None):
        raise InvalidRequest("a build starts from either image or from_build")
    if request.steps is None:
        if request.from_build is not None:
            raise InvalidRequest("from_build is for builds with steps, be there none of them: send `steps: []`")
        if request.force:
            raise InvalidRequest("force is for builds with steps; a build of an image as it is uses no earlier one's")
        return None
    # Steps come from tenants: files of the node are not theirs to name.
    if request.image is not None and not isinstance(parse_reference(request.image), RegistryImage):
        raise InvalidRequest(f"a build with steps starts from an image in a registry, not from '{request.image}'")
    if request.from_build is not None and request.registry is not None:
        raise InvalidRequest("registry is for image; a build that starts from from_build fetches none")
    return parse_steps(request.steps)
