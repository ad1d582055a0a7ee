"""From shim to init: the bundle first, then all else that init must know, with the descriptors it needs.

Init is born before its bundle is known (`birth.py`), so it inherits nothing. It gets `config.json` as soon as the shim
has read it, and reads it itself while the shim makes cgroups and opens sources: both build the same plan from it, for a
plan is a pure value. Texts go through memfds, since they may be larger than a message; descriptors follow in messages
of at most DESCRIPTORS each (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarmpy.runtime.process_setup import SeccompFilter

__all__ = ["Handover", "receive_bundle", "receive_handover", "send_bundle", "send_handover"]

DESCRIPTORS = 200
MAX_HEADER = 65536


@dataclass(frozen=True, slots=True)
class Handover:
    """Numbers are descriptors, of whichever process holds the value."""

    container_id: str
    shown: tuple[dict[str, str], dict[str, str]]  # cgroup directories and links, for the plan
    seccomp: SeccompFilter | None
    last_capability: int
    whole_mount_table: bool  # the mount namespace is a copy of the host's, and must not propagate to it
    null: str
    staging: str
    sources: Sequence[int]
    cgroup_files: Sequence[int]
    join: Sequence[tuple[int, int]]  # namespaces by path: descriptor, clone flag
    stdio: Sequence[int]  # none with a terminal

    def descriptors(self) -> list[int]:
        return [*self.sources, *self.cgroup_files, *(descriptor for descriptor, _ in self.join), *self.stdio]


def send_bundle(channel: socket.socket, path: str, config: bytes) -> None:
    """Raises OSError when init is gone."""
    _send(channel, {"path": path, "length": len(config)}, config, ())


def receive_bundle(channel: socket.socket) -> tuple[str, bytes] | None:
    """The bundle's path and the text of its config.json; None when the shim ended without need for this process."""
    received = _receive(channel)
    if received is None:
        return None
    header, text, _ = received
    return str(header["path"]), text


def send_handover(channel: socket.socket, handover: Handover) -> None:
    """Raises OSError when init is gone."""
    program = b"" if handover.seccomp is None else handover.seccomp.program
    header = {
        "id": handover.container_id,
        "length": len(program),
        "shown": handover.shown,
        "seccomp": None if handover.seccomp is None else handover.seccomp.flags,
        "last_capability": handover.last_capability,
        "whole_mount_table": handover.whole_mount_table,
        "null": handover.null,
        "staging": handover.staging,
        "counts": [len(handover.sources), len(handover.cgroup_files), len(handover.join), len(handover.stdio)],
        "flags": [flag for _, flag in handover.join],
    }
    _send(channel, header, program, handover.descriptors())


def receive_handover(channel: socket.socket) -> Handover | None:
    """None when the shim ended first."""
    received = _receive(channel)
    if received is None:
        return None
    header, program, descriptors = received
    groups: list[list[int]] = []
    for count in header["counts"]:
        groups.append(descriptors[:count])
        descriptors = descriptors[count:]
    seccomp = None if header["seccomp"] is None else SeccompFilter(program, header["seccomp"])
    return Handover(
        header["id"], tuple(header["shown"]), seccomp, header["last_capability"], header["whole_mount_table"],
        header["null"], header["staging"], groups[0], groups[1],
        list(zip(groups[2], header["flags"], strict=True)), groups[3],
    )  # fmt: skip


def _send(channel: socket.socket, header: dict[str, object], text: bytes, descriptors: Sequence[int]) -> None:
    """The header, with `text` in a memfd as the first descriptor."""
    holder = os.memfd_create("handover", os.MFD_CLOEXEC)
    try:
        os.write(holder, text)
        everything = [holder, *descriptors]
        message = json.dumps(header | {"descriptors": len(everything)}).encode()
        socket.send_fds(channel, [message], everything[:DESCRIPTORS])
        for start in range(DESCRIPTORS, len(everything), DESCRIPTORS):
            socket.send_fds(channel, [b"more"], everything[start : start + DESCRIPTORS])
    finally:
        os.close(holder)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], bytes, list[int]] | None:
    data, received, _, _ = socket.recv_fds(channel, MAX_HEADER, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    header = json.loads(data)
    while len(received) < header["descriptors"]:
        more, further, _, _ = socket.recv_fds(channel, 64, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not more:
            return None
        received += further
    holder, *descriptors = received
    text = os.pread(holder, header["length"], 0)
    os.close(holder)
    return header, text, descriptors
