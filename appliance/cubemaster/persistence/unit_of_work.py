"""All repositories over one connection: what one transaction may touch."""

from __future__ import annotations

from sqlalchemy import Connection

from appliance.cubemaster.persistence.builds import BuildRepository
from appliance.cubemaster.persistence.events import EventRepository
from appliance.cubemaster.persistence.keys import KeyRepository
from appliance.cubemaster.persistence.nodes import NodeRepository
from appliance.cubemaster.persistence.sandboxes import SandboxRepository
from appliance.cubemaster.persistence.secrets import SecretRepository
from appliance.cubemaster.persistence.snapshots import SnapshotRepository
from appliance.cubemaster.persistence.team_metrics import TeamMetricRepository
from appliance.cubemaster.persistence.teams import TeamRepository
from appliance.cubemaster.persistence.template_files import TemplateFileRepository
from appliance.cubemaster.persistence.templates import TemplateRepository
from appliance.cubemaster.persistence.volumes import VolumeRepository


class UnitOfWork:
    def __init__(self, connection: Connection) -> None:
        self.teams = TeamRepository(connection)
        self.team_metrics = TeamMetricRepository(connection)
        self.keys = KeyRepository(connection)
        self.nodes = NodeRepository(connection)
        self.templates = TemplateRepository(connection)
        self.builds = BuildRepository(connection)
        self.template_files = TemplateFileRepository(connection)
        self.sandboxes = SandboxRepository(connection)
        self.snapshots = SnapshotRepository(connection)
        self.events = EventRepository(connection)
        self.secrets = SecretRepository(connection)
        self.volumes = VolumeRepository(connection)
