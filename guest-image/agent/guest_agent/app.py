"""Wires the agent: every object is made here, by hand, and passed to those that need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from guest_agent.auth.access import Access, Gate
from guest_agent.auth.peers import GUEST_ADDRESS, InitPeers
from guest_agent.connect import client_stream, server_stream, unary
from guest_agent.context import Context
from guest_agent.files.compose import Compositions
from guest_agent.files.download import Downloads
from guest_agent.files.upload import Uploads
from guest_agent.filesystem import schema as filesystem
from guest_agent.filesystem.service import FilesystemService
from guest_agent.filesystem.watch.service import WatchService
from guest_agent.flush import Flush
from guest_agent.heartbeat import Heartbeat
from guest_agent.identity.init import BorrowedMachine, GuestMachine, Initializer
from guest_agent.logs.endpoint import Logs
from guest_agent.logs.process_log import ProcessLog
from guest_agent.logs.ring import LogRing
from guest_agent.loopback.forwarding import Forwarding
from guest_agent.loopback.sockets import ListeningSockets
from guest_agent.metrics import Metrics
from guest_agent.process import schema as process
from guest_agent.process.adoption import adopt, find_orphans
from guest_agent.process.oom import own_score
from guest_agent.process.registry import Registry
from guest_agent.process.service import ProcessService
from guest_agent.routing import Route, Router
from guest_agent.session import SessionStore
from guest_agent.settings import Settings
from guest_agent.users import UserDatabase
from guest_agent.volumes.entries import VolumeEntries
from guest_agent.volumes.failures import in_volume
from guest_agent.volumes.mounted import Volumes
from guest_agent.volumes.slots import BorrowedSlots, GuestSlots, Slots
from guest_agent.volumes.transfers import VolumeTransfers


@dataclass(frozen=True, slots=True)
class Agent:
    """The application, and what must happen once within its event loop before it serves."""

    app: ASGIApp
    on_start: Callable[[], None]


def make_agent(settings: Settings) -> Agent:
    sessions = SessionStore(settings.state_file)
    context = Context(UserDatabase(), sessions)
    machine = GuestMachine() if settings.own_machine else BorrowedMachine()
    slots = GuestSlots() if settings.own_machine else BorrowedSlots()
    registry = Registry()
    logs = LogRing()
    forwarding = Forwarding(str(GUEST_ADDRESS), ListeningSockets().read, on_look=Heartbeat(settings.heartbeat_fd).beat)
    gate = Gate(sessions, InitPeers(allowed=settings.init_from))
    routes = [
        *_plain_routes(
            context, Initializer(sessions, machine, slots, settings.marker_directory, logs), Flush(sessions), logs
        ),
        *_volume_routes(sessions, slots),
        *_process_routes(ProcessService(context, registry, logs)),
        *_filesystem_routes(FilesystemService(context), WatchService(context)),
    ]

    # Opened once, before the first program and before the memory is shared with clones.
    own_score()

    def listen_to(pid: int) -> ProcessLog:
        log = ProcessLog(logs)
        log.adopted(pid)
        return log

    def on_start() -> None:
        # Without a session this is the first agent since boot, and a look through /proc would find nothing.
        if sessions.current is not None:
            for entry in adopt(find_orphans(), registry.ended, listen_to):
                registry.add(entry)
        if settings.own_machine:
            forwarding.start()

    app = CORSMiddleware(
        Router(gate, routes, on_request=forwarding.touch),
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["*"],
    )
    return Agent(app, on_start)


def _plain_routes(context: Context, initializer: Initializer, flush: Flush, logs: LogRing) -> list[Route]:
    async def health(_request: Request) -> ASGIApp:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def envs(_request: Request) -> ASGIApp:
        return JSONResponse(context.variables)

    return [
        Route("GET", "/health", Access.OPEN, health),
        Route("POST", "/init", Access.NODE, initializer.endpoint),
        Route("POST", "/trust", Access.NODE, initializer.trust_endpoint),
        Route("POST", "/flush", Access.NODE, flush.endpoint),
        Route("GET", "/logs", Access.NODE_TOKEN, Logs(logs).endpoint),
        Route("GET", "/metrics", Access.TOKEN, Metrics(logs).endpoint),
        Route("GET", "/envs", Access.TOKEN, envs),
        Route("GET", "/files", Access.SIGNED_READ, Downloads(context).endpoint),
        Route("POST", "/files", Access.SIGNED_WRITE, Uploads(context).endpoint),
        Route("POST", "/files/compose", Access.TOKEN, Compositions(context).endpoint),
    ]


def _volume_routes(sessions: SessionStore, slots: Slots) -> list[Route]:
    volumes = Volumes(sessions, slots)
    entries, transfers = VolumeEntries(volumes), VolumeTransfers(volumes)
    endpoints = {
        ("GET", "/volumes/path"): entries.stat,
        ("PATCH", "/volumes/path"): entries.change,
        ("DELETE", "/volumes/path"): entries.remove,
        ("GET", "/volumes/dir"): entries.list_directory,
        ("POST", "/volumes/dir"): entries.make_directory,
        ("GET", "/volumes/file"): transfers.read,
        ("PUT", "/volumes/file"): transfers.write,
    }
    return [
        *(Route(method, path, Access.NODE, in_volume(endpoint)) for (method, path), endpoint in endpoints.items()),
        Route("POST", "/volumes/release", Access.NODE, volumes.release),
    ]


def _process_routes(service: ProcessService) -> list[Route]:
    endpoints = {
        "Start": server_stream(service.start, process.START, keeps_time=True),
        "Connect": server_stream(service.connect, process.CONNECT),
        "List": unary(service.list_processes, process.LIST),
        "Update": unary(service.update, process.UPDATE),
        "SendInput": unary(service.send_input, process.SEND_INPUT),
        "StreamInput": client_stream(service.stream_input, process.STREAM_INPUT),
        "SendSignal": unary(service.send_signal, process.SEND_SIGNAL),
        "CloseStdin": unary(service.close_stdin, process.CLOSE_STDIN),
    }
    return [Route("POST", f"/process.Process/{name}", Access.TOKEN, endpoint) for name, endpoint in endpoints.items()]


def _filesystem_routes(service: FilesystemService, watching: WatchService) -> list[Route]:
    endpoints = {
        "Stat": unary(service.stat, filesystem.STAT),
        "MakeDir": unary(service.make_dir, filesystem.MAKE_DIR),
        "Move": unary(service.move, filesystem.MOVE),
        "ListDir": unary(service.list_dir, filesystem.LIST_DIR),
        "Remove": unary(service.remove, filesystem.REMOVE),
        "WatchDir": server_stream(watching.watch_dir, filesystem.WATCH_DIR),
        "CreateWatcher": unary(watching.create_watcher, filesystem.CREATE_WATCHER),
        "GetWatcherEvents": unary(watching.get_watcher_events, filesystem.GET_WATCHER_EVENTS),
        "RemoveWatcher": unary(watching.remove_watcher, filesystem.REMOVE_WATCHER),
    }
    return [
        Route("POST", f"/filesystem.Filesystem/{name}", Access.TOKEN, endpoint) for name, endpoint in endpoints.items()
    ]
