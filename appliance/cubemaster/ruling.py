"""The part of CubeMaster that has to do with network rules and the secrets and tokens in them, put together."""

from __future__ import annotations

from datetime import timedelta

from fastapi import FastAPI

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.reconcilers.availability import while_available
from appliance.cubemaster.reconcilers.token_renewal import TokenRenewal
from appliance.cubemaster.routes.secrets import secrets_router
from appliance.cubemaster.routes.workload_tokens import workload_tokens_router
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.sealing import Sealer
from appliance.cubemaster.services.secrets import SecretService
from appliance.cubemaster.services.workload_tokens import WorkloadTokens

_RENEWAL_INTERVAL = timedelta(seconds=2)


class Ruling:
    def __init__(self, database: Database, secrets_key: str, *, domain: str, clock: Clock) -> None:
        sealer = Sealer(secrets_key)
        self._tokens = WorkloadTokens(secrets_key, domain=domain, clock=clock)
        self._secrets = SecretService(database, sealer, clock)
        self._renewal = TokenRenewal(database, clock)
        self.policies = Policies(database, sealer, self._tokens, clock)

    def add_routes(self, app: FastAPI) -> None:
        app.include_router(secrets_router(self._secrets))
        app.include_router(workload_tokens_router(self._tokens))

    def start(self, background: Supervisor) -> None:
        background.every(_RENEWAL_INTERVAL, while_available(self._renewal.step), name="workload tokens")
