"""The messages of filesystem.Filesystem by number, for the binary codec."""

from __future__ import annotations

from guest_agent.protobuf.schema import (
    EMPTY,
    Field,
    Kind,
    Message,
    Rpc,
    boolean,
    enum,
    message,
    string,
    uint32,
)

_FILE_TYPES = {"FILE_TYPE_UNSPECIFIED": 0, "FILE_TYPE_FILE": 1, "FILE_TYPE_DIRECTORY": 2, "FILE_TYPE_SYMLINK": 3}
_EVENT_TYPES = {
    "EVENT_TYPE_UNSPECIFIED": 0,
    "EVENT_TYPE_CREATE": 1,
    "EVENT_TYPE_WRITE": 2,
    "EVENT_TYPE_REMOVE": 3,
    "EVENT_TYPE_RENAME": 4,
    "EVENT_TYPE_CHMOD": 5,
}

_ENTRY = Message(
    (
        string(1, "name"),
        enum(2, "type", _FILE_TYPES),
        string(3, "path"),
        Field(4, "size", Kind.INT64),
        uint32(5, "mode"),
        string(6, "permissions"),
        string(7, "owner"),
        string(8, "group"),
        Field(9, "modifiedTime", Kind.TIMESTAMP),
        string(10, "symlinkTarget"),
        Field(11, "metadata", Kind.STRING_MAP),
        boolean(12, "isSymlink"),
    )
)
_EVENT = Message((string(1, "name"), enum(2, "type", _EVENT_TYPES), message(3, "entry", _ENTRY)))
_PATH = Message((string(1, "path"),))
_ONE_ENTRY = Message((message(1, "entry", _ENTRY),))
_WATCH = Message(
    (string(1, "path"), boolean(2, "recursive"), boolean(3, "includeEntry"), boolean(4, "allowNetworkMounts"))
)
_WATCHER = Message((string(1, "watcherId"),))
_WATCH_EVENT = Message((message(1, "start", EMPTY), message(2, "filesystem", _EVENT), message(3, "keepalive", EMPTY)))

STAT = Rpc(_PATH, _ONE_ENTRY)
MAKE_DIR = Rpc(_PATH, _ONE_ENTRY)
MOVE = Rpc(Message((string(1, "source"), string(2, "destination"))), _ONE_ENTRY)
LIST_DIR = Rpc(
    Message((string(1, "path"), uint32(2, "depth"))), Message((message(1, "entries", _ENTRY, repeated=True),))
)
REMOVE = Rpc(_PATH, EMPTY)
WATCH_DIR = Rpc(_WATCH, _WATCH_EVENT)
CREATE_WATCHER = Rpc(_WATCH, _WATCHER)
GET_WATCHER_EVENTS = Rpc(_WATCHER, Message((message(1, "events", _EVENT, repeated=True),)))
REMOVE_WATCHER = Rpc(_WATCHER, EMPTY)
