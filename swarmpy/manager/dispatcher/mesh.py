"""What the routing mesh of every node must know: one view for all, told as diffs that are encoded once.

Owns    the view (nodes, services, endpoints), its version, what changed at which version, and which tasks await their
        withdrawal. Pure: no clock, no session, no store.
In      the present entry of an object that may have changed; acknowledgements.
Out     serialized `ToAgent` messages from any version to the newest; task ids whose owner may now be told to stop.

The laws:

- an endpoint exists while its task's desired state is RUNNING and it is observed RUNNING;
- versions grow by one per flush, however many objects changed, so the cost of a burst is that of its distinct objects;
- a node at version v is sent one diff v -> newest: a slow node skips versions. All nodes at v get the same bytes;
- a task in the view whose desired state passes RUNNING is *held*: its owner is told only after every connected node has
  applied a version without it, or `WITHDRAWAL_NS` later. Nodes that leave are not waited for. Those that have yet to
  come to a new leader are: they send connections where the leader before told them to.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from swarmpy.rpc.dispatcher_pb2 import MeshNode, MeshService, MeshTask, MeshUpdate, ToAgent
from swarmpy.rpc.types_pb2 import RUNNING, Network, Node, PortConfig, Service, Task

__all__ = ["WITHDRAWAL_NS", "MeshBook", "Withdrawals", "endpoint_of", "mesh_node", "mesh_service"]

WITHDRAWAL_NS = 2_000_000_000
PART_ENTRIES = 5_000             # in one message: about half a megabyte
HISTORY = 50_000                 # changed ids remembered; a node further behind gets the whole view

Entry = TypeVar("Entry", MeshNode, MeshService, MeshTask)


def endpoint_of(task: Task | None, ingress_id: str) -> MeshTask | None:
    """The task's endpoint in the ingress network, None while it may not receive connections."""
    if task is None or task.desired_state != RUNNING or task.status.state != RUNNING:
        return None
    for attachment in task.networks:
        if attachment.network_id == ingress_id and attachment.addresses:
            return MeshTask(
                id=task.id, service_id=task.service_id, node_id=task.node_id, address=attachment.addresses[0]
            )
    return None


def mesh_node(node: Node) -> MeshNode | None:
    """The node's part in the mesh, None until it has both an address and an ingress address."""
    if not node.status.addr or not node.ingress.addresses:
        return None
    return MeshNode(id=node.id, addr=node.status.addr, ingress_address=node.ingress.addresses[0])


def mesh_service(service: Service) -> MeshService | None:
    """The service's ingress ports, None when it publishes none."""
    ports = [port for port in service.endpoint.ports if port.publish_mode == PortConfig.INGRESS]
    return MeshService(id=service.id, ports=ports) if ports else None


class _Part(Generic[Entry]):
    """One kind of entry: the present ones, and those that changed since the last flush."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.dirty: set[str] = set()
        self.moved = False               # an entry changed that was there before

    def put(self, key: str, entry: Entry | None) -> bool:
        before = self.entries.get(key)
        if before == entry:
            return False
        self.moved |= before is not None and entry is not None
        if entry is None:
            del self.entries[key]
        else:
            self.entries[key] = entry
        self.dirty.add(key)
        return True

    def settle(self) -> frozenset[str]:
        changed = frozenset(self.dirty)
        self.dirty.clear()
        self.moved = False
        return changed


class MeshBook:
    """The view and its versions. Version 1 is the view of a new leader; 0 means that a node has nothing."""

    def __init__(self) -> None:
        self.version = 1
        self.nodes: _Part[MeshNode] = _Part()
        self.services: _Part[MeshService] = _Part()
        self.tasks: _Part[MeshTask] = _Part()
        self._ingress: Network | None = None
        self._port = 0
        self._network_dirty = False
        self._history: deque[tuple[int, frozenset[str], frozenset[str], frozenset[str], bool]] = deque()
        self._remembered = 0
        self._encoded: dict[int, tuple[bytes, ...]] = {}

    def put_network(self, ingress: Network | None, data_path_port: int) -> None:
        """The ingress network as the store has it, and VXLAN's UDP port."""
        if ingress != self._ingress or data_path_port != self._port:
            self._ingress, self._port, self._network_dirty = ingress, data_path_port, True

    @property
    def dirty(self) -> bool:
        """Whether `flush` would make a new version."""
        return bool(self.nodes.dirty or self.services.dirty or self.tasks.dirty or self._network_dirty)

    @property
    def urgent(self) -> bool:
        """Whether connections depend on what changed.

        A node that comes gets none before it has a task, and one that goes takes its tasks along; one that has moved to
        another address has them still.
        """
        return bool(self.services.dirty or self.tasks.dirty or self.nodes.moved or self._network_dirty)

    def flush(self) -> int:
        """Make what changed since the last call the next version, if anything did. Returns the newest version."""
        if not self.dirty:
            return self.version
        self.version += 1
        entry = (
            self.version, self.nodes.settle(), self.services.settle(), self.tasks.settle(), self._network_dirty,
        )
        self._network_dirty = False
        self._history.append(entry)
        self._remembered += len(entry[1]) + len(entry[2]) + len(entry[3])
        while self._history and self._remembered > HISTORY:
            _, nodes, services, tasks, _ = self._history.popleft()
            self._remembered -= len(nodes) + len(services) + len(tasks)
        self._encoded.clear()
        return self.version

    def encode(self, since: int) -> tuple[bytes, ...]:
        """Serialized ToAgent messages that lead from version `since` (0: nothing known) to the newest version.

        Empty when there is nothing to tell. Changes not yet flushed are not told. Computed once per `since`.
        """
        if since == self.version:
            return ()
        messages = self._encoded.get(since)
        if messages is None:
            messages = tuple(part.SerializeToString() for part in self._parts(since))
            self._encoded[since] = messages
        return messages

    def _parts(self, since: int) -> Iterator[ToAgent]:
        oldest = self._history[0][0] if self._history else self.version + 1
        complete = since < oldest - 1
        if complete:
            nodes, services, tasks = set(self.nodes.entries), set(self.services.entries), set(self.tasks.entries)
            network = True
        else:
            nodes, services, tasks, network = set(), set(), set(), False
            for version, some_nodes, some_services, some_tasks, some_network in self._history:
                if version > since:
                    nodes |= some_nodes
                    services |= some_services
                    tasks |= some_tasks
                    network |= some_network
        update = MeshUpdate(complete=complete, version=self.version)
        if network:
            update.data_path_port = self._port
            if self._ingress is not None:
                update.ingress.CopyFrom(self._ingress)
        count = 0
        for kind, key in _each(nodes, services, tasks):
            if count == PART_ENTRIES:
                update.more = True
                yield ToAgent(mesh=update)
                update, count = MeshUpdate(version=self.version), 0
            self._tell(update, kind, key)
            count += 1
        yield ToAgent(mesh=update)

    def _tell(self, update: MeshUpdate, kind: str, key: str) -> None:
        if kind == "node":
            node = self.nodes.entries.get(key)
            update.nodes.append(node) if node is not None else update.removed_nodes.append(key)
        elif kind == "service":
            service = self.services.entries.get(key)
            update.services.append(service) if service is not None else update.removed_services.append(key)
        else:
            task = self.tasks.entries.get(key)
            update.tasks.append(task) if task is not None else update.removed_tasks.append(key)


def _each(nodes: set[str], services: set[str], tasks: set[str]) -> Iterator[tuple[str, str]]:
    for kind, keys in (("node", nodes), ("service", services), ("task", tasks)):
        for key in sorted(keys):
            yield kind, key


class Withdrawals:
    """Tasks whose end waits until no node sends them new connections."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[int, int]] = OrderedDict()          # task -> version awaited, deadline
        self._applied: dict[str, int] = {}                                     # session -> version
        self._lowest: list[tuple[int, str]] = []                               # heap over _applied, with stale pairs
        self._awaited: set[str] = set()                                        # nodes that have yet to come
        self._awaited_until = 0

    def expect(self, node_ids: Iterable[str], until: int) -> None:
        """A new leader's nodes, whose kernels hold a view of the leader before, are waited for: until then at most."""
        self._awaited.update(node_ids)
        self._awaited_until = until

    def not_awaited(self, node_id: str) -> None:
        """It has come, or will not."""
        self._awaited.discard(node_id)

    def joined(self, session_id: str) -> None:
        """A connected node counts from its first moment: its kernel may hold any earlier view."""
        self._set(session_id, 0)

    def left(self, session_id: str) -> None:
        """The session ended; nobody waits for it any more."""
        self._applied.pop(session_id, None)

    def applied(self, session_id: str, version: int) -> None:
        """MeshApplied from a session."""
        if session_id in self._applied and version > self._applied[session_id]:
            self._set(session_id, version)

    def hold(self, task_id: str, version: int, now: int) -> None:
        """Hold the task until `version`, the first without it, is applied everywhere."""
        deadline = now + WITHDRAWAL_NS
        if self._awaited:
            deadline = max(deadline, self._awaited_until)
        self._held.setdefault(task_id, (version, deadline))

    def drop(self, task_id: str) -> None:
        """The task is gone, or ended by itself: nothing is waited for."""
        self._held.pop(task_id, None)

    def __len__(self) -> int:
        return len(self._held)

    def held(self, task_id: str) -> bool:
        """Whether its owner must not yet learn that the task is to stop."""
        return task_id in self._held

    def release(self, now: int) -> list[str]:
        """Tasks whose wait is over, in the order they were held. Cost: the released, not the held."""
        released = []
        applied = self._lowest_applied()
        while self._held:
            task_id, (version, deadline) = next(iter(self._held.items()))
            withdrawn = not self._awaited and (applied is None or applied >= version)
            if not withdrawn and deadline > now:
                break
            del self._held[task_id]
            released.append(task_id)
        return released

    def _lowest_applied(self) -> int | None:
        """None when no node is connected."""
        while self._lowest:
            version, session_id = self._lowest[0]
            if self._applied.get(session_id) == version:
                return version
            heapq.heappop(self._lowest)
        return None

    def _set(self, session_id: str, version: int) -> None:
        self._applied[session_id] = version
        heapq.heappush(self._lowest, (version, session_id))
