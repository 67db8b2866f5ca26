"""The guest agent: what runs inside every sandbox and speaks E2B's envd protocol on port 49983.

It runs from a disk of its own with its own interpreter, in whatever root file system the template has: it imports and
executes nothing of that root but what a client asks for.
"""

ENVD_VERSION = "0.6.13"
"""The envd whose protocol this agent speaks in full. Clients unlock features by comparing it."""
