"""The routing mesh on this node: what the leader says, folded into a view, and the view brought into the kernel.

Owns    `MeshFold` (pure): the entries as of a version. `MeshKeeper`: the loop that applies the newest view, skipping
        those that came while it was busy, tries again when the kernel refuses, and in between looks after the kernel,
        however busy it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Protocol

from swarmpy.errors import SwarmpyError
from swarmpy.network import Backend, IngressNetwork, MeshView, Peer, Port, ViewChange
from swarmpy.rpc.dispatcher_pb2 import MeshUpdate
from swarmpy.rpc.types_pb2 import Network, PortConfig

__all__ = ["KernelMesh", "MeshFold", "MeshKeeper"]

RETRY_S = 1.0
GLANCE_S = 1.0
GLANCES_PER_AUDIT = 30

log = logging.getLogger(__name__)


class KernelMesh(Protocol):
    """What `network.Mesh` does for a worker."""

    async def apply(self, view: MeshView) -> None: ...

    async def glance(self) -> bool: ...

    async def audit(self) -> bool: ...

    async def close(self) -> None: ...

    async def release(self) -> None: ...


class MeshFold:
    """The mesh as the leader describes it to this node."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self.version = 0
        self.whole = False                   # no part of the version under way is missing
        self._own: IPv4Interface | None = None
        self._vtep: IPv4Address | None = None
        self._network: Network | None = None
        self._port = 0
        self._clear()

    def _clear(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._services: dict[str, tuple[Port, ...]] = {}
        self._tasks: dict[str, Backend] = {}
        self._mark: object = None            # of the last view; None: the next one is not compared with it
        self._begin_change()

    def _begin_change(self) -> None:
        self._changed_peers: dict[str, Peer | None] = {}
        self._changed_services: dict[str, tuple[Port, ...] | None] = {}
        self._changed_tasks: dict[str, Backend | None] = {}

    def fold(self, update: MeshUpdate) -> bool:
        """Take in one update. Whether a whole version is here now, and may be applied.

        An entry that this node cannot use (an address that is not IPv4, a protocol it does not know) is left out, and
        logged: one odd service must not keep all others from their connections.
        """
        if update.complete:
            self._clear()
            self._own = self._vtep = self._network = None
        if update.HasField("ingress"):
            self._network = update.ingress
        self._port = update.data_path_port or self._port
        for key in update.removed_nodes:
            self._peers.pop(key, None)
            self._changed_peers[key] = None
        for key in update.removed_services:
            self._services.pop(key, None)
            self._changed_services[key] = None
        for key in update.removed_tasks:
            self._tasks.pop(key, None)
            self._changed_tasks[key] = None
        for node in update.nodes:
            self._put_node(node.id, node.addr, node.ingress_address)
        for service in update.services:
            self._put_service(service.id, list(service.ports))
        for task in update.tasks:
            try:
                address = IPv4Interface(task.address).ip
            except ValueError as error:
                log.warning("task %s gets no connections: %s", task.id, error)
                continue
            self._tasks[task.id] = self._changed_tasks[task.id] = Backend(task.service_id, task.node_id, address)
        self.whole = not update.more
        if self.whole:
            self.version = update.version
        return self.whole

    def _put_node(self, node_id: str, addr: str, ingress: str) -> None:
        try:
            vtep, address = IPv4Address(addr), IPv4Interface(ingress)
        except ValueError as error:
            log.warning("node %s is left out of the routing mesh: %s", node_id, error)
            return
        if node_id == self._node_id:
            self._own, self._vtep = address, vtep
        else:
            self._peers[node_id] = self._changed_peers[node_id] = Peer(vtep, address.ip)

    def _put_service(self, service_id: str, ports: list[PortConfig]) -> None:
        usable = []
        for port in ports:
            protocol = PortConfig.Protocol.Name(port.protocol).lower()
            try:
                usable.append(Port(protocol, port.published_port, port.target_port))
            except SwarmpyError as error:
                log.warning("service %s: port %d is not published: %s", service_id, port.published_port, error)
        self._services[service_id] = self._changed_services[service_id] = tuple(usable)

    def view(self) -> MeshView:
        """The view as of `version`; without an ingress network until this node has its address in it.

        The fold goes on with the mappings of the view: it is to be used before the next message is, or else by its
        `change`.
        """
        ingress = None
        if self._network is not None and self._own is not None and self._vtep is not None and self._network.ipam:
            ingress = IngressNetwork(
                subnet=IPv4Network(self._network.ipam[0].subnet), vni=self._network.vni, address=self._own,
                vtep=self._vtep, udp_port=self._port,
            )
        change = None
        if self._mark is not None:
            change = ViewChange(self._mark, self._changed_peers, self._changed_services, self._changed_tasks)
        view = MeshView(self._node_id, ingress, self._peers, self._services, self._tasks, change=change)
        self._mark = view.mark
        self._begin_change()
        return view


class MeshKeeper:
    """Keeps the kernel at the newest view. `ready` is set while this node has its place in the ingress network, and
    `current` once a view of the present session is in the kernel."""

    def __init__(self, mesh: KernelMesh) -> None:
        self._mesh = mesh
        self._fold: MeshFold | None = None
        self._wake = asyncio.Event()
        self._applied: Callable[[int], None] | None = None
        self.ready = asyncio.Event()
        self.current = asyncio.Event()

    def session(self, node_id: str, applied: Callable[[int], None]) -> None:
        """A new session: its first update is complete. `applied` is called with each version that is in the kernel."""
        self._fold = MeshFold(node_id)
        self._applied = applied
        self.current.clear()

    def take(self, update: MeshUpdate) -> None:
        """One update of the present session."""
        if self._fold is not None and self._fold.fold(update):
            self._wake.set()

    async def run(self) -> None:
        """Apply views, and look after what is applied, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look_after())

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._apply()

    async def _apply(self) -> None:
        fold, applied = self._fold, self._applied
        if fold is None or not fold.whole:
            return
        version = fold.version
        try:
            view = fold.view()
            await self._mesh.apply(view)
        except (SwarmpyError, OSError) as error:
            log.error("the routing mesh could not be brought to version %d: %s", version, error)
            await self._pause()
            return
        if view.ingress is not None:
            self.ready.set()
        else:
            self.ready.clear()
        if fold is self._fold:
            self.current.set()
        if applied is not None:
            applied(version)

    async def _look_after(self) -> None:
        glances = 0
        while True:
            await asyncio.sleep(GLANCE_S)
            glances += 1
            try:
                look = self._mesh.audit if glances % GLANCES_PER_AUDIT == 0 else self._mesh.glance
                if await look():
                    log.warning("the routing mesh in the kernel was changed by others and is repaired")
            except (SwarmpyError, OSError) as error:
                log.error("the routing mesh could not be looked after: %s", error)

    async def _pause(self) -> None:
        """Wait before the same view is tried again; a newer one is tried at once."""
        try:
            async with asyncio.timeout(RETRY_S):
                await self._wake.wait()
        except TimeoutError:
            self._wake.set()
