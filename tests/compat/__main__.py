"""`make compat`: every released client that we promise to serve, run unmodified against the appliance in the lab.

Prints the matrix, writes it to build/compat.json, and exits 1 if any check of any client failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab import host
from lab.appliance import Appliance, inside_lab
from tests.compat import environments
from tests.compat.matrix import CLIENTS, Client

_CLIENT_LIMIT_S = 900
_RESULT = host.CHECKOUT / "build" / "compat.json"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    outcome: str
    """`passed`, `failed`, or `absent` where this release of the client has no such call."""
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    client: str
    seconds: float
    checks: tuple[Check, ...]

    def count(self, outcome: str) -> int:
        return sum(1 for check in self.checks if check.outcome == outcome)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("--only", default="", help="run only clients whose name contains this")
    wanted = [client for client in CLIENTS if parser.parse_args().only in str(client)]
    if not wanted:
        parser.error("no client has that in its name")
    appliance = Appliance.of_lab()
    console = Console()
    verdicts = []
    for number, client in enumerate(wanted, start=1):
        console.print(f"[{number}/{len(wanted)}] {client}", highlight=False, markup=False)
        verdict = run(client, appliance)
        for check in verdict.checks:
            if check.outcome == "failed":
                console.print(
                    f"    failed: {check.name}: {check.detail}", highlight=False, markup=False, soft_wrap=True
                )
        verdicts.append(verdict)
    console.print(_table(verdicts))
    _write(verdicts)
    failed = sum(verdict.count("failed") for verdict in verdicts)
    passed = sum(verdict.count("passed") for verdict in verdicts)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def run(client: Client, appliance: Appliance) -> Verdict:
    """Run one client's program in the lab. A program that does not come to its end is a failed check of its own."""
    argv, directory = environments.command(client)
    begun = time.monotonic()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "NODE_EXTRA_CA_CERTS": str(appliance.authority),
        **appliance.client_environment(),
    }
    ended = ""
    try:
        done = subprocess.run(
            inside_lab(argv),
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_CLIENT_LIMIT_S,
            check=False,
        )
        said = done.stdout
        if done.returncode != 0:
            ended = f"ended with {done.returncode}: {done.stderr[-500:]}"
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else ""
        ended = f"not done after {_CLIENT_LIMIT_S} s"
    checks = [_check(line) for line in said.splitlines() if line.startswith('{"check"')]
    if ended or not checks:
        checks.append(Check("the program comes to its end", "failed", ended or "it checked nothing"))
    return Verdict(str(client), round(time.monotonic() - begun, 1), tuple(checks))


def _check(line: str) -> Check:
    said = json.loads(line)
    return Check(said["check"], said["outcome"], said["detail"])


def _table(verdicts: list[Verdict]) -> Table:
    table = Table("client", "passed", "failed", "absent", "seconds", title="Released clients against this appliance")
    for one in verdicts:
        counts = (str(one.count(outcome)) for outcome in ("passed", "failed", "absent"))
        table.add_row(one.client, *counts, f"{one.seconds:g}", style="red" if one.count("failed") else None)
    return table


def _write(verdicts: list[Verdict]) -> None:
    _RESULT.parent.mkdir(exist_ok=True)
    content = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "clients": [asdict(one) for one in verdicts]}
    Path(_RESULT).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
