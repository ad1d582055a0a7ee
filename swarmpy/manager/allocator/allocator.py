"""The allocator stage: NEW tasks become PENDING once all they need but a node is theirs.

Owns    the ingress network, addresses in it (each node's and each published task's), services' published ports.
In      cluster, networks, nodes, services and tasks, as the store shows them.
Out     Network (created once), Node.ingress, Service.endpoint, Task.networks, Task.ports, NEW -> PENDING; and
        Task.status.error while something a task needs is used up.
Laws    nothing is given twice; what is given is written in the store and nowhere else, so a new leader knows all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from itertools import chain, islice

from swarmpy.manager.allocator.addresses import AddressPool
from swarmpy.manager.allocator.endpoints import DYNAMIC_PORTS, endpoint_for, is_allocated, uses_ingress
from swarmpy.manager.store import Event, EventKind, IdSource, NotLeader, Store, Transaction, commit_units, in_turns
from swarmpy.rpc.types_pb2 import (
    NEW,
    PENDING,
    RUNNING,
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    PortConfig,
    Service,
    Task,
)

__all__ = ["Allocator"]

_FIRST_VNI = 4096               # below lie the identifiers other software likes to use
_DEFAULT_POOL = "10.0.0.0/8"
_DEFAULT_PREFIX = 24
_AT_ONCE = 1000                 # tasks decided before the news is looked at again


class Allocator:
    """Runs on the leader; everything it knows is rebuilt from the store."""

    def __init__(self, store: Store, clock: Callable[[], int], new_id: IdSource) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._pool: AddressPool | None = None
        self._ingress_id = ""
        self._services: set[str] = set()     # whose endpoint may have to change
        self._nodes: set[str] = set()        # which may lack an address
        self._tasks: dict[str, None] = {}    # which are NEW, oldest first
        self._waiting: dict[str, None] = {}  # of these, which lacked something when they were last looked at

    async def run(self) -> None:
        """Allocate for as long as this manager leads; returns when it no longer does."""
        with self._store.watch("cluster", "networks", "nodes", "services", "tasks") as watch:
            self._rebuild()
            try:
                while True:
                    for unit in await commit_units(self._store, self._decide()):
                        self._reconsider(unit)
                    more = self._tasks and self._pool is not None
                    await self._learn(watch.take() if more else await anext(watch))
            except NotLeader:
                return

    # ------------------------------------------------------------------------------------------ what is known

    async def _learn(self, news: Sequence[Event]) -> None:
        if news:
            self._tasks, self._waiting = self._waiting | self._tasks, {}
        async for events in in_turns(news):
            for event in events:
                self._note(event)

    def _rebuild(self) -> None:
        store = self._store
        self._services, self._nodes, self._tasks = set(store.services), set(store.nodes), {}
        self._open_pool()
        newest = ""
        for task in sorted(store.tasks.values(), key=lambda task: task.meta.created_ns):
            self._note_task(task)
            newest = _address_in(task, self._ingress_id) or newest
        if newest and self._pool is not None:
            self._pool.resume_after(newest)

    def _open_pool(self) -> None:
        """Find the ingress network, and which addresses nodes have in it."""
        network = next((row for row in self._store.networks.values() if row.spec.ingress and row.ipam), None)
        if network is None or network.id == self._ingress_id:
            return
        self._ingress_id, self._pool = network.id, AddressPool(network.ipam[0].subnet)
        for node in self._store.nodes.values():
            if node.HasField("ingress"):
                self._pool.hold(node.id, node.ingress.addresses[0])

    def _note(self, event: Event) -> None:
        row = event.object
        gone = event.kind is EventKind.REMOVE
        if isinstance(row, Task):
            if gone:
                self._forget(row.id)
                self._free(row.id)
            elif not _goes_on(event.old, row):
                self._note_task(row)
        elif isinstance(row, Service):
            if not gone:
                self._services.add(row.id)
        elif isinstance(row, Node):
            self._nodes.discard(row.id)
            if gone:
                self._free(row.id)
            elif not row.HasField("ingress"):
                self._nodes.add(row.id)
        elif isinstance(row, Network):
            self._open_pool()

    def _note_task(self, task: Task) -> None:
        if task.status.state == NEW and task.desired_state <= RUNNING:
            self._tasks[task.id] = None
            return
        self._forget(task.id)
        if task.status.state > RUNNING:
            self._free(task.id)
        elif self._pool is not None:
            address = _address_in(task, self._ingress_id)
            if address is not None and self._pool.of(task.id) != address:
                self._pool.hold(task.id, address)

    def _forget(self, task_id: str) -> None:
        self._tasks.pop(task_id, None)
        self._waiting.pop(task_id, None)

    def _free(self, owner: str) -> None:
        if self._pool is not None:
            self._pool.free(owner)

    def _reconsider(self, unit: Transaction) -> None:
        """A unit was refused: what it would have given is free again, unless the store says otherwise."""
        for row in unit.objects:
            if isinstance(row, Service):
                self._services.add(row.id)
            elif isinstance(row, Node | Task):
                self._free(row.id)
                present = self._store.tasks.get(row.id) if isinstance(row, Task) else None
                if present is not None:
                    self._note_task(present)
                elif row.id in self._store.nodes:
                    self._nodes.add(row.id)

    # ------------------------------------------------------------------------------------------ decisions

    def _decide(self) -> Iterable[Transaction]:
        cluster = self._store.cluster
        if cluster is None:
            return []
        if self._pool is None:
            ingress = ingress_network(cluster, self._new_id(), self._store.networks.by_name("ingress"))
            return [] if ingress is None else [_unit(ingress)]
        return chain(self._give_nodes(self._pool), self._give_services(), self._give_tasks(self._pool))

    def _give_nodes(self, pool: AddressPool) -> list[Transaction]:
        units = []
        for node_id in sorted(self._nodes):
            node = self._store.nodes.get(node_id)
            if node is None or node.HasField("ingress"):
                continue
            address = pool.take(node_id)
            if address is None:
                break
            changed = Node()
            changed.CopyFrom(node)
            changed.ingress.CopyFrom(NetworkAttachment(network_id=self._ingress_id, addresses=[address]))
            units.append(_unit(changed))
        self._nodes = {node_id for node_id in self._nodes if node_id in self._store.nodes and not pool.of(node_id)}
        return units

    def _give_services(self) -> list[Transaction]:
        units = []
        given: set[tuple[PortConfig.Protocol, int]] = set()
        starved: set[str] = set()
        for service_id in sorted(self._services):
            service = self._store.services.get(service_id)
            if service is None or is_allocated(service):
                continue
            endpoint = endpoint_for(service, self._is_taken_from(service_id, given))
            if endpoint is None:
                starved.add(service_id)
                continue
            given |= {(port.protocol, port.published_port) for port in endpoint.ports}
            changed = Service()
            changed.CopyFrom(service)
            changed.endpoint.CopyFrom(endpoint)
            units.append(_unit(changed))
        self._services = starved
        return units

    def _is_taken_from(
        self, service_id: str, given: set[tuple[PortConfig.Protocol, int]]
    ) -> Callable[[PortConfig.Protocol, int], bool]:
        def is_taken(protocol: PortConfig.Protocol, number: int) -> bool:
            holder = self._store.ports.holder(protocol, number)
            return (holder is not None and holder != service_id) or (protocol, number) in given

        return is_taken

    def _give_tasks(self, pool: AddressPool) -> Iterator[Transaction]:
        """The next tasks, each decided when it is asked for."""
        now = self._clock()
        for task_id in list(islice(self._tasks, _AT_ONCE)):
            del self._tasks[task_id]
            task = self._store.tasks.get(task_id)
            service = None if task is None else self._store.services.get(task.service_id)
            if task is None or service is None or task.status.state != NEW:
                continue
            changed, waits = self._give_task(pool, task, service, now)
            if waits:
                self._waiting[task_id] = None
            if changed is not None:
                yield _unit(changed)

    def _give_task(self, pool: AddressPool, task: Task, service: Service, now: int) -> tuple[Task | None, bool]:
        """The task as it is to be written, if it is; and whether it still waits."""
        if not is_allocated(service):
            if service.id not in self._services:        # its endpoint is on the way to the store
                return None, True
            return _refused(
                task, f"no free published port: all of {DYNAMIC_PORTS[0]}-{DYNAMIC_PORTS[-1]} are in use", now
            ), True
        address = None
        if uses_ingress(service):
            address = pool.take(task.id)
            if address is None:
                return _refused(
                    task,
                    f"no free address in ingress network {pool.subnet}: all {pool.size} are in use; a swarm made with "
                    "a smaller --default-addr-pool-mask-length has more",
                    now,
                ), True
        changed = Task()
        changed.CopyFrom(task)
        del changed.networks[:], changed.ports[:]
        if address is not None:
            changed.networks.add(network_id=self._ingress_id, addresses=[address])
        changed.ports.extend(service.endpoint.ports)
        status = changed.status
        status.state, status.timestamp_ns, status.message, status.error = PENDING, now, "pending task scheduling", ""
        return changed, False


def ingress_network(cluster: Cluster, network_id: str, present: Network | None) -> Network | None:
    """The network of the routing mesh, from the swarm's first address pool; None when `present` is already it."""
    if present is not None:
        return None
    pool = IPv4Network(next(iter(cluster.default_addr_pool), _DEFAULT_POOL))
    prefix = max(cluster.subnet_size or _DEFAULT_PREFIX, pool.prefixlen)
    subnet = next(pool.subnets(new_prefix=prefix))
    network = Network(id=network_id, vni=_FIRST_VNI)
    network.spec.annotations.name = "ingress"
    network.spec.driver = "overlay"
    network.spec.ingress = True
    network.ipam.add(subnet=str(subnet), gateway=str(subnet[1]))
    return network


def _address_in(task: Task, network_id: str) -> str | None:
    for attachment in task.networks:
        if attachment.network_id == network_id and attachment.addresses:
            return attachment.addresses[0]
    return None


def _goes_on(old: object, new: Task) -> bool:
    """Whether a task that was given what it needs keeps it."""
    return isinstance(old, Task) and old.status.state >= PENDING and new.status.state <= RUNNING


def _refused(task: Task, error: str, now: int) -> Task | None:
    """The task with its error, or None when it says so already."""
    if task.status.error == error:
        return None
    changed = Task()
    changed.CopyFrom(task)
    changed.status.error, changed.status.timestamp_ns = error, now
    return changed


def _unit(row: Network | Node | Service | Task) -> Transaction:
    unit = Transaction()
    unit.put(row)
    return unit
