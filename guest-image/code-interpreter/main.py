"""Entry point of the server; the supervisor starts it as `uvicorn main:app`."""

import os

from code_interpreter.app import create_app
from code_interpreter.settings import Settings

app = create_app(Settings.from_environment(os.environ))
