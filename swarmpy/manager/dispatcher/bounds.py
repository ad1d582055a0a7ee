"""What a node may say of itself and of its tasks.

A worker that somebody took over still has its certificate. What it says is stored by every manager and shown to every
client, so it must neither fill the log nor be something that no list can show.

In      what arrived from an agent, before anything is made of it.
Out     nothing, or InvalidArgument that names the node and the field. Long texts are cut, since real errors are long.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from swarmpy.errors import InvalidArgument
from swarmpy.manager.store import may_report
from swarmpy.rpc.dispatcher_pb2 import FromAgent, TaskStatusUpdate
from swarmpy.rpc.types_pb2 import NEW, NodeDescription, PortConfig

__all__ = ["check"]

DESCRIPTION_BYTES = 64 << 10
STATUS_BYTES = 64 << 10             # of one task
TEXT_CHARACTERS = 4096
PROTOCOLS, MODES = PortConfig.Protocol.values(), PortConfig.PublishMode.values()


def check(node_id: str, said: FromAgent) -> None:
    """Raises InvalidArgument when `said` is nothing that the agent of a node says."""
    kind = said.WhichOneof("message")
    if kind == "hello":
        _check_address(node_id, said.hello.advertise_addr)
        _check_description(node_id, said.hello.description)
        _check_updates(node_id, said.hello.tasks)
    elif kind == "description":
        _check_description(node_id, said.description)
    elif kind == "report":
        _check_updates(node_id, said.report.updates)


def _check_address(node_id: str, text: str) -> None:
    try:
        if text:
            ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"node {node_id}: advertise_addr must be an IP address: {error}") from error


def _check_description(node_id: str, description: NodeDescription) -> None:
    if (size := description.ByteSize()) > DESCRIPTION_BYTES:
        raise InvalidArgument(f"node {node_id}: a description has {DESCRIPTION_BYTES} bytes at most, not {size}")


def _check_updates(node_id: str, updates: Iterable[TaskStatusUpdate]) -> None:
    for update in updates:
        where, status = f"node {node_id}: status of task {update.task_id[:25]}", update.status
        if not may_report(NEW, status.state):
            raise InvalidArgument(f"{where}: no task is observed in state {status.state}")
        for port in status.host_ports:
            if port.protocol not in PROTOCOLS or port.publish_mode not in MODES:
                raise InvalidArgument(f"{where}: host_ports: unknown protocol or mode in {port!s:.200}")
        for field in ("message", "error"):
            if len(text := getattr(status, field)) > TEXT_CHARACTERS:
                setattr(status, field, text[: TEXT_CHARACTERS - 1] + "…")
        if (size := status.ByteSize()) > STATUS_BYTES:
            raise InvalidArgument(f"{where}: a status has {STATUS_BYTES} bytes at most, not {size}")
