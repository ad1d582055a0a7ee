"""From shim to init: all that init must know, and the descriptors it needs.

Init is born before its bundle is known (`birth.py`), so it inherits nothing. The text goes through a memfd, since a
configuration may be larger than a message; descriptors follow in messages of at most DESCRIPTORS each (unix(7),
SCM_RIGHTS). Shim and init both build the plan from the same text: a plan is a pure value, and cheaper made than sent.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from swarmpy.runtime.process_setup import SeccompFilter

__all__ = ["Handover", "receive_handover", "send_handover"]

DESCRIPTORS = 200
MAX_HEADER = 65536


@dataclass(frozen=True, slots=True)
class Handover:
    """Numbers are descriptors, of whichever process holds the value."""

    container_id: str
    bundle: str
    config: bytes  # config.json as it was read
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


def send_handover(channel: socket.socket, handover: Handover) -> None:
    """Raises OSError when init is gone."""
    program = b"" if handover.seccomp is None else handover.seccomp.program
    header = {
        "id": handover.container_id,
        "bundle": handover.bundle,
        "config": len(handover.config),
        "shown": handover.shown,
        "seccomp": None if handover.seccomp is None else [len(program), handover.seccomp.flags],
        "last_capability": handover.last_capability,
        "whole_mount_table": handover.whole_mount_table,
        "null": handover.null,
        "staging": handover.staging,
        "counts": [len(handover.sources), len(handover.cgroup_files), len(handover.join), len(handover.stdio)],
        "flags": [flag for _, flag in handover.join],
    }
    text = os.memfd_create("handover", os.MFD_CLOEXEC)
    try:
        os.writev(text, [handover.config, program])
        descriptors = [text, *handover.descriptors()]
        socket.send_fds(channel, [json.dumps(header).encode()], descriptors[:DESCRIPTORS])
        for start in range(DESCRIPTORS, len(descriptors), DESCRIPTORS):
            socket.send_fds(channel, [b"more"], descriptors[start : start + DESCRIPTORS])
    finally:
        os.close(text)


def receive_handover(channel: socket.socket) -> Handover | None:
    """None when the shim ended without need for this process."""
    data, received, _, _ = socket.recv_fds(channel, MAX_HEADER, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    header = json.loads(data)
    counts = header["counts"]
    while len(received) < 1 + sum(counts):
        more, further, _, _ = socket.recv_fds(channel, 64, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not more:
            return None
        received += further
    text, *rest = received
    config = os.pread(text, header["config"], 0)
    seccomp = None
    if header["seccomp"] is not None:
        length, flags = header["seccomp"]
        seccomp = SeccompFilter(os.pread(text, length, header["config"]), flags)
    os.close(text)
    groups: list[list[int]] = []
    for count in counts:
        groups.append(rest[:count])
        rest = rest[count:]
    return Handover(
        header["id"], header["bundle"], config, tuple(header["shown"]), seccomp, header["last_capability"],
        header["whole_mount_table"], header["null"], header["staging"], groups[0], groups[1],
        list(zip(groups[2], header["flags"], strict=True)), groups[3],
    )  # fmt: skip
