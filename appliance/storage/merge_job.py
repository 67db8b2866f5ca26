"""What Cubelet tells a merge worker, and what the worker reports: JSON, as both ends write it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer of the image: a range of a file that the worker inherits open."""

    fd: int
    offset: int
    size: int
    diff_id: str
    """Digest of the uncompressed bytes."""
    digest: str | None
    """Digest of the stored bytes, where the image states it."""


@dataclass(frozen=True, slots=True)
class MergeJob:
    layers: tuple[LayerBlob, ...]
    """Lowest first."""
    unpacked_bytes: int
    entries: int
    compression_ratio: int
    path_bytes: int

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> MergeJob:
        fields = json.loads(text)
        fields["layers"] = tuple(LayerBlob(**layer) for layer in fields["layers"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What the worker says when it has decided, before it emits anything; or that it refuses the image, by `rule`."""

    entries: int = 0
    unpacked_bytes: int = 0
    newest_mtime: int = 0
    """Of all that is seen in the end and more; seconds since the epoch."""
    rule: str | None = None
    detail: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> MergeReport:
        return cls(**json.loads(text))
