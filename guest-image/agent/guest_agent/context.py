"""Which user, directory and environment a request means when it names none."""

from __future__ import annotations

import os.path
from collections.abc import Mapping

from guest_agent.errors import UnknownUser
from guest_agent.identity import trust
from guest_agent.session import Session, SessionStore
from guest_agent.users import ROOT, User, UserDatabase

DEFAULT_USER = "user"
"""E2B's templates have this account; clients before envd 0.4.0 name it in every call."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_SESSION = Session()


class Context:
    """Resolves names against the image's accounts and the session of the last /init."""

    def __init__(self, users: UserDatabase, sessions: SessionStore) -> None:
        self.users = users
        self._sessions = sessions

    @property
    def session(self) -> Session:
        return self._sessions.current or _NO_SESSION

    @property
    def variables(self) -> dict[str, str]:
        """The global variables: those of the sandbox, and what leads programs to an authority that the machine got."""
        session = self.session
        return {**(trust.variables() if session.ca_bundle is not None else {}), **session.env_vars}

    def user(self, name: str | None) -> User:
        """Return the account, or the default one for None. Raise UnknownUser.

        Where the image lacks the default account, root stands in for it, asked for by name or not.
        """
        default = self.session.default_user or DEFAULT_USER
        found = self.users.find(name or default)
        if found is None and name in (None, default, DEFAULT_USER):
            return self.users.find("root") or ROOT
        if found is None:
            raise UnknownUser(name or default)
        return found

    def path(self, path: str, user: User) -> str:
        """Return `path` absolute and cleaned: `~` is the user's home, relative starts at the default directory."""
        if path == "~" or path.startswith("~/"):
            path = user.home + path[1:]
        absolute = os.path.join(self.session.default_workdir or user.home, path)  # noqa: PTH118 - lexical
        # POSIX leaves two leading slashes to the implementation; on Linux they are one.
        return "/" + os.path.normpath(absolute).lstrip("/")

    def environment(self, user: User, extra: Mapping[str, str]) -> dict[str, str]:
        """Return what a process of `user` sees: account, sandbox, global variables, and `extra` last."""
        session = self.session
        environment = {
            "PATH": DEFAULT_PATH,
            "HOME": user.home,
            "USER": user.name,
            "LOGNAME": user.name,
            "E2B_SANDBOX": "true",
        }
        if session.sandbox_id:
            environment["E2B_SANDBOX_ID"] = session.sandbox_id
        if session.template_id:
            environment["E2B_TEMPLATE_ID"] = session.template_id
        environment.update(self.variables)
        environment.update(extra)
        return environment
