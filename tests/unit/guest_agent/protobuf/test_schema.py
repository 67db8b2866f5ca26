"""The tables against the descriptors that the E2B SDK ships."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from e2b.envd.filesystem import filesystem_pb
from e2b.envd.process import process_pb

from guest_agent.filesystem import schema as filesystem
from guest_agent.process import schema as process
from guest_agent.protobuf.schema import Field, Kind, Message, Rpc

CALLS = [
    (module, name, rpc)
    for module, tables in ((process_pb, process), (filesystem_pb, filesystem))
    for name, rpc in vars(tables).items()
    if isinstance(rpc, Rpc)
]


def said(field: Field) -> Any:
    """Return what a table says of a field."""
    if field.message is not None:
        return field.number, field.repeated, shape(field.message)
    return field.number, field.repeated, dict(field.names) if field.names else field.kind.name


def shape(message: Message) -> dict[str, Any]:
    return {name: said(field) for name, field in message.by_name.items()}


def described(field: Any) -> Any:
    """Return what the SDK's descriptor says of it, in the same words."""
    value, proto = field.value, field.proto
    match proto.type_name:
        case ".google.protobuf.Timestamp":
            return field.number, False, Kind.TIMESTAMP.name
        case name if name.endswith(("EnvsEntry", "MetadataEntry")):
            return field.number, False, Kind.STRING_MAP.name
    repeated = proto.label.name == "REPEATED"
    match proto.type.name:
        case "MESSAGE":
            content: Any = descriptor_shape(value.element if repeated else value.message)
        case "ENUM":
            content = {item.name: item.number for item in value.enum.values}
        case name:
            content = name
    return field.number, repeated, content


def descriptor_shape(descriptor: Any) -> dict[str, Any]:
    return {field.json_name: described(field) for field in descriptor.fields}


@pytest.mark.parametrize(("module", "name", "rpc"), CALLS, ids=[name for _, name, _ in CALLS])
def test_tables_are_those_of_the_protocol(module: ModuleType, name: str, rpc: Rpc) -> None:
    method = "".join(part.capitalize() for part in name.split("_"))
    assert shape(rpc.request) == descriptor_shape(getattr(module, f"{method}Request").desc())
    assert shape(rpc.response) == descriptor_shape(getattr(module, f"{method}Response").desc())


def test_every_method_has_its_tables() -> None:
    requests = {
        name.removesuffix("Request")
        for module in (process_pb, filesystem_pb)
        for name in vars(module)
        if name.endswith("Request")
    }
    assert {"".join(part.capitalize() for part in name.split("_")) for _, name, _ in CALLS} == requests
