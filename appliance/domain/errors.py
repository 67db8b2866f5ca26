"""Every error the appliance raises on purpose.

    CubeError
    ├── InvalidRequest            the caller must change the request
    │   ├── TemplateInUse
    │   ├── LengthRequired
    │   └── PayloadTooLarge
    ├── Unauthenticated           no key, or a key that is unknown, expired or revoked
    ├── Forbidden                 a key that is known, but not for this
    ├── NotFound
    │   ├── TeamNotFound
    │   ├── SandboxNotFound
    │   ├── TemplateNotFound
    │   ├── BuildNotFound
    │   ├── SnapshotNotFound
    │   ├── VolumeNotFound
    │   └── NodeNotFound
    ├── Conflict                  the object is in a state that does not allow this
    │   ├── SandboxTransitioning
    │   ├── GuestUnresponsive
    │   ├── VolumeInUse
    │   └── TemplateNotReady
    ├── Gone                      what E2B once had and nobody serves any more
    ├── QuotaExceeded             the team has as much as it may have
    ├── RateLimited               the caller asks too often
    ├── Unavailable               try again: something we depend on is down or full
    │   ├── NoCapacity
    │   ├── NoKeeper              all that may serve volumes without a sandbox are busy
    │   ├── NodeUnreachable
    │   └── DeadlineExceeded
    └── NodeFailure               a step on the node failed
        ├── VmmFailure
        ├── GuestFailure
        │   └── GuestRefused      the guest agent answered, with an error
        ├── StorageFailure
        │   ├── DiskFull
    │   ├── RegistryLoginRefused
        │   └── ImageRejected     an image that the host refuses, with the rule it broke
        └── NetworkFailure

Errors carry data; only `common/http.py` knows status codes.
"""

from __future__ import annotations


class CubeError(Exception):
    """Base of all. `str()` is one sentence for the caller, with what to do next where there is something."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(CubeError):
    """The request breaks a rule of the interface."""


class TemplateInUse(InvalidRequest):
    """Sandboxes hold the template. E2B's clients know this one as a 400, by its text."""

    def __init__(self, template_id: str, state: str) -> None:
        super().__init__(f"cannot delete template '{template_id}' because there are {state} sandboxes using it")
        self.template_id = template_id
        self.state = state


class LengthRequired(InvalidRequest):
    """A body must say beforehand how long it is."""


class PayloadTooLarge(InvalidRequest):
    """A body is longer than is taken."""


class Unauthenticated(CubeError):
    """No credentials, or credentials that are not valid now."""


class Forbidden(CubeError):
    """Valid credentials that do not cover the object."""


class NotFound(CubeError):
    """The object does not exist for this caller; another team's object is told apart from nothing by nobody."""


class TeamNotFound(NotFound):
    def __init__(self, reference: str) -> None:
        super().__init__("Team not found")
        self.reference = reference


class SandboxNotFound(NotFound):
    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")
        self.sandbox_id = sandbox_id


class TemplateNotFound(NotFound):
    def __init__(self, reference: str, hint: str = "") -> None:
        super().__init__(f"template '{reference}' not found{f': {hint}' if hint else ''}")
        self.reference = reference


class BuildNotFound(NotFound):
    def __init__(self, build_id: str) -> None:
        super().__init__(f"build '{build_id}' not found")
        self.build_id = build_id


class SnapshotNotFound(NotFound):
    def __init__(self, reference: str) -> None:
        super().__init__(f"snapshot '{reference}' not found")
        self.reference = reference


class VolumeNotFound(NotFound):
    def __init__(self, volume: str) -> None:
        super().__init__("Volume not found")
        self.volume = volume


class NodeNotFound(NotFound):
    def __init__(self, node_id: str) -> None:
        super().__init__(f"node '{node_id}' not found")
        self.node_id = node_id


class Conflict(CubeError):
    """The object is in a state that does not allow the call."""


class SandboxTransitioning(Conflict):
    def __init__(self, sandbox_id: str, state: str) -> None:
        super().__init__(f'Sandbox "{sandbox_id}" is being {state}')
        self.sandbox_id = sandbox_id
        self.state = state


class GuestUnresponsive(Conflict):
    """The agent in a guest does not answer, so what the guest has in hand is unknown. The sandbox goes on."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(
            f'the agent in sandbox "{sandbox_id}" does not answer, so it was not paused and goes on running; '
            "pause it with its memory and without requiring a healthy guest, or kill it"
        )
        self.sandbox_id = sandbox_id


class VolumeInUse(Conflict):
    """A volume belongs to one sandbox at a time, from its create until it is deleted."""

    def __init__(self, volume: str, sandbox_id: str | None = None) -> None:
        holder = f'sandbox "{sandbox_id}"' if sandbox_id else "another sandbox"
        super().__init__(f"volume '{volume}' is in use by {holder}; kill that first")
        self.volume = volume


class TemplateNotReady(Conflict):
    """A template that exists but has no finished build."""

    def __init__(self, reference: str, status: str, reason: str | None = None) -> None:
        detail = f": {reason}" if reason else ""
        hint = "wait for it with `cubemastercli tpl watch`" if status in ("building", "waiting") else "build it again"
        super().__init__(f"template '{reference}' is not ready, its build is '{status}'{detail}; {hint}")
        self.reference = reference
        self.status = status


class QuotaExceeded(CubeError):
    """The team has as many of these as it may have. One that ends makes room, so waiting may help."""

    retry_after_s: int | None = 1


class RateLimited(CubeError):
    """Too many calls of a kind in too short a time."""

    retry_after_s: int | None = 1

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Gone(CubeError):
    """A call that clients know, of a feature that was given up."""


class Unavailable(CubeError):
    """The call may succeed later. `retry_after_s` is None where waiting will not help."""

    retry_after_s: int | None = 1


class NoCapacity(Unavailable):
    """No schedulable node fits the request."""


class NoKeeper(Unavailable):
    def __init__(self, busy: int) -> None:
        super().__init__(f"the node serves the content of {busy} volumes, and may serve no more at a time; try again")


class NodeUnreachable(Unavailable):
    def __init__(self, node_id: str, detail: str) -> None:
        super().__init__(f"node '{node_id}' does not answer: {detail}; see `cubemastercli node list`")
        self.node_id = node_id


class DeadlineExceeded(Unavailable):
    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not finish within {seconds:g} s")
        self.what = what


class NodeFailure(CubeError):
    """A step on the node failed; nothing of it is left behind."""


class VmmFailure(NodeFailure):
    """The VMM refused a command, or died."""


class GuestFailure(NodeFailure):
    """The guest did not do what it must, such as acknowledging its new identity."""


class GuestRefused(GuestFailure):
    """The guest agent answered with an error: `code` is Connect's name or the HTTP status, `detail` its text."""

    def __init__(self, message: str, *, code: str, detail: str) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


class StorageFailure(NodeFailure):
    """A disk, layer or snapshot could not be made."""


class DiskFull(StorageFailure):
    """The node's disk has no room; what was begun is removed."""


class RegistryLoginRefused(StorageFailure):
    """AWS gives no login at its registry for an access key. `code` is its own word for the reason."""

    def __init__(self, code: str) -> None:
        super().__init__(
            f"the registry login was refused by AWS: {code}; check awsAccessKeyId, awsSecretAccessKey and awsRegion, "
            "and that the key may call ecr:GetAuthorizationToken"
        )
        self.code = code


class ImageRejected(StorageFailure):
    """An image the host refuses to use. `rule` is the machine-readable name of what it broke."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"image rejected ({rule}): {detail}")
        self.rule = rule


class NetworkFailure(NodeFailure):
    """A tap, address or program could not be set up."""
