"""The environment variables of the sandbox, as the guest agent keeps them."""

import logging
from asyncio import Lock
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

log = logging.getLogger(__name__)

_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class SandboxVariables:
    """The variables, and which sandbox of those that this memory has been they belong to."""

    generation: int = 0
    values: Mapping[str, str] = field(default_factory=dict)


class SandboxEnvironment:
    """Reads the sandbox's variables once for each access token.

    The token is made from the sandbox's id: a clone of a used sandbox shows by its token that it has other
    variables, while a resumed sandbox keeps both.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._lock = Lock()
        self._token: str | None = None
        self._read = SandboxVariables()
        self._agent_answers = True

    async def variables(self, access_token: str | None) -> SandboxVariables:
        """Return the variables, or those last known if the agent does not tell: a cell is worth more."""
        async with self._lock:
            if self._read.generation == 0 or self._token != access_token:
                values = await self._fetch(access_token)
                if values is not None:
                    self._read = SandboxVariables(self._read.generation + 1, values)
                    self._token = access_token
            return self._read

    async def _fetch(self, access_token: str | None) -> Mapping[str, str] | None:
        headers = {} if access_token is None else {"X-Access-Token": access_token}
        try:
            async with self._session.get(
                self._url, headers=headers, timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)
            ) as answer:
                answer.raise_for_status()
                values = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if self._agent_answers:  # once for an outage, not once for each cell in it
                log.warning("environment of the sandbox not read: %s", error)
            self._agent_answers = False
            return None
        self._agent_answers = True
        return {str(name): str(value) for name, value in values.items()}
