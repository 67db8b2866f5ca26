"""Leave to upload: what lets whoever holds it put one archive of one template, for a while, without a key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from appliance.domain.errors import Forbidden, Unauthenticated

LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class UploadLeave:
    template_id: str
    files_hash: str
    expires: int
    """Unix seconds."""
    signature: str = field(repr=False)


class UploadSigner:
    def __init__(self, seed: str) -> None:
        # A key of its own: what this signs must mean nothing to whoever else uses the seed.
        self._key = hmac.digest(seed.encode(), b"template-file-uploads", hashlib.sha256)

    def grant(self, template_id: str, files_hash: str, *, now: datetime) -> UploadLeave:
        expires = int((now + LIFETIME).timestamp())
        return UploadLeave(template_id, files_hash, expires, self._signature(template_id, files_hash, expires))

    def check(self, leave: UploadLeave, *, now: datetime) -> None:
        """Raise Unauthenticated for a leave that was never granted, or Forbidden for one that has run out."""
        expected = self._signature(leave.template_id, leave.files_hash, leave.expires)
        if not hmac.compare_digest(expected.encode(), leave.signature.encode()):
            raise Unauthenticated("the upload's signature is not valid; ask for the file's url again")
        if now.timestamp() > leave.expires:
            raise Forbidden("the leave to upload has run out; ask for the file's url again")

    def _signature(self, template_id: str, files_hash: str, expires: int) -> str:
        message = f"{template_id}\n{files_hash}\n{expires}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
