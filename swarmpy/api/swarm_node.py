"""What the API needs of this host's place in a swarm. `daemon/` implements it; the API knows nothing behind it.

Source  Docker Engine API, paths under /swarm, and SystemInfo.Swarm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from swarmpy.manager.control import Control
from swarmpy.manager.replicated_log import LogMember
from swarmpy.manager.store import Store
from swarmpy.rpc.logs_pb2 import LogMessage, LogRequest
from swarmpy.rpc.types_pb2 import ClusterSpec, NodeSpec

__all__ = ["InitRequest", "JoinRequest", "LocalState", "SwarmManager", "SwarmNode"]


class LocalState(Enum):
    """SwarmInfo.LocalNodeState."""

    INACTIVE = "inactive"
    PENDING = "pending"      # joining, or a manager that has not heard of a leader yet
    ACTIVE = "active"
    ERROR = "error"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class InitRequest:
    """POST /swarm/init. Empty strings mean: not given."""

    listen_addr: str
    advertise_addr: str
    data_path_addr: str
    data_path_port: int                    # 0: 4789
    default_addr_pool: tuple[str, ...]
    subnet_size: int                       # 0: 24
    force_new_cluster: bool
    availability: NodeSpec.Availability
    spec: ClusterSpec


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """POST /swarm/join."""

    listen_addr: str
    advertise_addr: str
    data_path_addr: str
    remote_addrs: tuple[str, ...]          # host[:port]
    join_token: str
    availability: NodeSpec.Availability


class SwarmManager(Protocol):
    """The manager part of this host, while it is a manager."""

    @property
    def store(self) -> Store: ...

    @property
    def control(self) -> Control:
        """Writes, on whichever manager leads."""

    async def read_barrier(self) -> None:
        """See ReplicatedLog.read_barrier: after it, `store` holds every write that was acknowledged before."""

    def members(self) -> tuple[LogMember, ...]: ...

    def logs(self, request: LogRequest) -> AsyncIterator[LogMessage]:
        """Lines of the tasks and services named, from all nodes, roughly in time order."""


class SwarmNode(Protocol):
    """This host, as far as a swarm is concerned."""

    @property
    def node_id(self) -> str: ...               # "" while not in a swarm

    @property
    def node_addr(self) -> str: ...             # IP others reach it at; "" while not in a swarm

    @property
    def local_state(self) -> LocalState: ...

    @property
    def error(self) -> str: ...                 # why the state is ERROR; else ""

    @property
    def manager(self) -> SwarmManager | None: ...

    @property
    def remote_managers(self) -> tuple[tuple[str, str], ...]:
        """(node id or "", host:port) of every manager known to this node."""

    async def init(self, request: InitRequest) -> str:
        """Start a swarm of one manager and return its node id. Conflict when already in a swarm."""

    async def join(self, request: JoinRequest) -> None:
        """Become a node of the swarm the token is for. Conflict, Unavailable, Forbidden (token refused)."""

    async def leave(self, *, force: bool) -> None:
        """Forget the swarm; its tasks on this host end. Conflict for a manager without `force`."""

    async def unlock(self, key: str) -> None: ...

    async def take_unlock_key(self) -> None:
        """Return once what this manager keeps opens with the unlock key that its store shows.

        Raises Internal when its disk does not take it, Unavailable when this host ceases to be a manager.
        """
