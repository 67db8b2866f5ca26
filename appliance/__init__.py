"""Self-hosted microVM sandboxes for AI agents: the control services."""

__version__ = "0.1.0"
