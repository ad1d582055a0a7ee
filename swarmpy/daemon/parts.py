"""The seam between a node's life and the rooms it is made of: what `member` asks for, and `wiring` makes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import grpc.aio

from swarmpy.daemon.swarm_state import SwarmState
from swarmpy.identity import NodeIdentity
from swarmpy.manager.replicated_log import ReplicatedLog
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import Node, RaftConfig

__all__ = ["AgentNews", "LogStart", "OpenLog", "Parts", "SwarmAgent"]


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A manager's replicated log, and what only its maker knows of it."""

    log: ReplicatedLog
    serve: Callable[[grpc.aio.Server], None]    # puts the log's own service on a manager's server
    configure: Callable[[RaftConfig], None]     # what the swarm's spec says of it; may change at any time
    take_keys: Callable[[Sequence[bytes]], Awaitable[None]]     # seals all it keeps with the first of these data keys


class LogStart(Enum):
    """How a manager's log begins."""

    FOUND = "found"                     # a new swarm, of this member
    RESUME = "resume"                   # from the disk; or, with nothing there, empty until the leader adds this member
    ALONE = "alone"                     # from the disk, with all its data and no other member (--force-new-cluster)


@dataclass(frozen=True, slots=True)
class AgentNews:
    """Whom an agent tells what the dispatcher says of its node."""

    on_node: Callable[[Node], None]             # as the store has it
    on_roots: Callable[[bytes, int], None]      # to trust (PEM, the issuing one first), as of a version of the cluster
    on_refused: Callable[[str], None]           # why the leader does not take the node
    on_broken: Callable[[str], None]            # why the agent stopped by itself; it is to be closed, and made anew


class SwarmAgent(Protocol):
    """This host's agent while it is a node."""

    @property
    def connected(self) -> bool:
        """Whether the leader has welcomed it, and the session lasts."""

    @property
    def managers(self) -> tuple[str, ...]:
        """Every manager it knows (host:port), the leader first. It remembers them across restarts."""

    def follow_leader(self, addr: str) -> None:
        """This host's manager has a new leader, at `addr` (host:port): go there, whatever the present session says."""

    async def close(self, *, remove_tasks: bool) -> None:
        """End the session. With `remove_tasks` the tasks' containers end and are removed first."""


class Parts(Protocol):
    async def open_log(
        self,
        store: Store,
        identity: NodeIdentity,
        state: SwarmState,
        directory: Path,
        start: LogStart,
        on_end: Callable[[str, bool], None],
    ) -> OpenLog:
        """The replicated log under `directory`, driving `store`.

        `on_end` is told when this member stops by itself: why, and whether it is because it was removed.
        """

    async def start_agent(
        self,
        identity: NodeIdentity,
        state: SwarmState,
        news: AgentNews,
    ) -> SwarmAgent:
        """An agent that looks for the leader, and takes up a new certificate by itself."""

    async def end_tasks(self) -> None:
        """What an agent left on this host ends, tasks and mesh, without any manager being told."""

    async def follow(self, store: Store) -> None:
        """Until cancelled, tell this host's users what happens in the swarm."""
