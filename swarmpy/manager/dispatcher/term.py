"""All that a leader knows of its nodes, from the day it leads until it no longer does.

Owns    the sessions and, between them, the four cores: liveness, mesh, withdrawals, reports. Nothing here waits for
        anything: `dispatcher` feeds it with events, messages and time, and writes what it queues.
In      the store at start, events of its watch, sessions and their messages, ticks.
Out     marks on sessions, `reports` to be stored, `mesh.dirty`.

The cost of an event does not depend on how many nodes or tasks there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from swarmpy.manager.dispatcher.assignments import AssignmentFeed
from swarmpy.manager.dispatcher.logs import LogBroker
from swarmpy.manager.dispatcher.mesh import MeshBook, Withdrawals, endpoint_of, mesh_node, mesh_service
from swarmpy.manager.dispatcher.reports import NodeChange, ReportQueue
from swarmpy.manager.dispatcher.session import End, Session
from swarmpy.manager.dispatcher.sessions import Liveness, heartbeat_period
from swarmpy.manager.dispatcher.turns import Turns
from swarmpy.manager.store import Event, Store, trusted_roots
from swarmpy.rpc.dispatcher_pb2 import FromAgent, Hello, LogSubscription, TaskStatusUpdate
from swarmpy.rpc.types_pb2 import ASSIGNED, RUNNING, Cluster, Node, NodeStatus, Service, Task

__all__ = ["DEFAULT_DATA_PATH_PORT", "Suspect", "Term"]

DEFAULT_DATA_PATH_PORT = 4789    # RFC 7348, section 5
DEFAULT_PORT = 2377              # of managers
AWAITED_PERIODS = 3              # of heartbeats, until a worker that does not come to a new leader is down
SCAN_STEP = 2_000                # tasks looked at in one turn of the loop while a term begins

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A silent node and where its host would answer: a manager where it listens, a worker by refusing."""

    node_id: str
    host: str
    port: int


class Term:
    """One leadership. `now` is monotonic nanoseconds everywhere."""

    def __init__(self, store: Store, new_id: Callable[[], str], now: int) -> None:
        self._store = store
        self._new_id = new_id
        self._sessions: dict[str, Session] = {}              # by node
        self._by_id: dict[str, Session] = {}
        self._ingress_id = ""
        self._managers: tuple[str, ...] = ()
        self.liveness = Liveness(now)
        self.mesh = MeshBook()
        self.withdrawals = Withdrawals()
        self.reports = ReportQueue()
        self.turns = Turns()
        self.logs = LogBroker(store, self._push_logs, new_id)
        self.period = self._period()

    # ------------------------------------------------------------------------------------------ the beginning

    async def begin(self, now: int) -> None:
        """Learn the swarm from the store. Gives way to others now and then; events of the meantime are fed afterwards.

        Tasks that were told to stop under the leader before may still be in some node's tables: they are held like all
        others, until every node that was up has come and has the first view of this leader.
        """
        self._read_network()
        up, managers = [], []
        for node in self._store.nodes.values():
            self.mesh.nodes.put(node.id, mesh_node(node))
            if node.status.state != NodeStatus.DOWN:
                up.append(node.id)
                if node.HasField("manager"):
                    managers.append(node.id)
        self.liveness.expect(up, self.period, now, managers=managers)
        self.withdrawals.expect(up, now + AWAITED_PERIODS * self.period)
        seen, ending = 0, []
        for service_id in list(self._store.services):
            service = self._store.services.get(service_id)
            self.mesh.services.put(service_id, mesh_service(service) if service is not None else None)
            for task in self._store.tasks.by_service(service_id):
                seen += 1
                self.mesh.tasks.put(task.id, endpoint_of(task, self._ingress_id))
                if task.desired_state > RUNNING and task.status.state == RUNNING and _attached(task, self._ingress_id):
                    ending.append(task.id)
            if seen > SCAN_STEP:
                seen = 0
                await asyncio.sleep(0)
        self.mesh.flush()
        for task_id in ending:
            self.withdrawals.hold(task_id, self.mesh.version, now)

    @property
    def connected(self) -> int:
        """How many nodes have a session."""
        return len(self._sessions)

    # ------------------------------------------------------------------------------------------ sessions

    def open(self, node_id: str, hello: Hello, peer_addr: str, now: int) -> Session:
        """A session of a node that the store knows. Replaces the one it had."""
        session = Session(
            self._new_id(),
            node_id,
            AssignmentFeed(
                node_id,
                [task.id for task in self._store.tasks.by_node(node_id) if task.status.state >= ASSIGNED],
                task=self._store.tasks.get,
                template=self._store.templates.get,
                held=self.withdrawals.held,
            ),
            self.mesh,
        )
        former = self._sessions.get(node_id)
        if former is not None:
            self._leave(former)
            former.finish(End(grpc.StatusCode.ABORTED, f"a newer session of node {node_id} took the place of this one"))
        self._sessions[node_id] = session
        self._by_id[session.id] = session
        self.withdrawals.joined(session.id)
        self.withdrawals.not_awaited(node_id)
        self.liveness.connected(node_id, self.period, now)
        self.reports.node(
            node_id,
            NodeChange(NodeStatus.READY, "", hello.advertise_addr or peer_addr, hello.description),
        )
        self.report(session, hello.tasks)
        self.reports.answer(session.id, 0)
        session.welcome(self.period)
        session.managers(self._managers)
        self._tell_node(session)
        self.logs.node_connected(node_id)
        return session

    def receive(self, session: Session, message: FromAgent, now: int) -> None:
        """One message after Hello. Every message is a sign of life. Those of a replaced session are void."""
        if self._by_id.get(session.id) is not session:
            return
        self.liveness.heard(session.node_id, now)
        kind = message.WhichOneof("message")
        if kind == "report":
            self.report(session, message.report.updates)
            self.reports.answer(session.id, message.report.sequence)
        elif kind == "mesh_applied":
            self.withdrawals.applied(session.id, message.mesh_applied.version)
            self._release(now)
        elif kind == "description":
            self.reports.node(session.node_id, NodeChange(description=message.description))
        elif kind == "leaving":
            self._leave(session)
            session.finish(End(grpc.StatusCode.OK, ""))
            self.liveness.left(session.node_id)
            self.reports.node(session.node_id, NodeChange(NodeStatus.DOWN, "the node left the swarm"))
            self._release(now)

    def report(self, session: Session, updates: Iterable[TaskStatusUpdate]) -> None:
        """Queue what a node says of its tasks."""
        self.reports.report(session.node_id, updates)

    def close(self, session: Session, now: int) -> None:
        """The stream ended, from whichever side."""
        if self._by_id.get(session.id) is session:
            self._leave(session)
            self.liveness.broken(session.node_id, now)
            self._release(now)

    def finish_all(self, end: End) -> None:
        """The term is over."""
        for session in list(self._sessions.values()):
            session.finish(end)
        self.logs.close()

    def answer(self, answers: dict[str, int]) -> None:
        """These sessions' reports are stored up to these sequences; Hello is 0."""
        for session_id, sequence in answers.items():
            session = self._by_id.get(session_id)
            if session is not None:
                session.admit()
                if sequence:
                    session.stored(sequence)

    # ------------------------------------------------------------------------------------------ events of the store

    def feed(self, event: Event, now: int) -> None:
        """Take in one change. What is read is what the store holds now, so a folded or late event does no harm."""
        row = event.object
        if isinstance(row, Task):
            self._task(event.id, row.node_id, event.old if isinstance(event.old, Task) else None, now)
        elif isinstance(row, Node):
            self._node(event.id, event.old if isinstance(event.old, Node) else None)
        elif isinstance(row, Service):
            service = self._store.services.get(event.id)
            self.mesh.services.put(event.id, mesh_service(service) if service is not None else None)
            self.logs.service_changed(event.id)
        elif isinstance(row, Cluster):
            self._cluster(row, event.old if isinstance(event.old, Cluster) else None, now)
        else:
            self._read_network()

    def flush_mesh(self) -> None:
        """Publish what changed in the mesh as the next version."""
        before = self.mesh.version
        if self.mesh.flush() != before:
            for session in self._sessions.values():
                session.wake.set()

    def _task(self, task_id: str, node_id: str, old: Task | None, now: int) -> None:
        task = self._store.tasks.get(task_id)
        off_the_mesh = task is not None and not task.networks         # networks never change once a task has a node
        freed = not off_the_mesh and self._endpoint(task_id, task, now)
        session = self._sessions.get(node_id)
        if session is not None and (freed or _concerns_agent(old, task)):
            self._changed(session, task_id)
        if task is not None and task.status.state >= RUNNING and (old is None or old.status.state != task.status.state):
            self.logs.task_changed(task)

    def _endpoint(self, task_id: str, task: Task | None, now: int) -> bool:
        """Keep up the task's place in the mesh. Whether its owner may hear now what was held back."""
        was_endpoint = task_id in self.mesh.tasks.entries
        endpoint = endpoint_of(task, self._ingress_id)
        if endpoint is not None and self._store.services.get(endpoint.service_id) is None:
            endpoint = None
        self.mesh.tasks.put(task_id, endpoint)
        if task is not None and was_endpoint and task.desired_state > RUNNING and task.status.state <= RUNNING:
            self.withdrawals.hold(task_id, self.mesh.version + 1, now)
        elif self.withdrawals.held(task_id) and (task is None or task.status.state > RUNNING):
            self.withdrawals.drop(task_id)
            return True
        return False

    def _node(self, node_id: str, old: Node | None) -> None:
        node = self._store.nodes.get(node_id)
        self.mesh.nodes.put(node_id, mesh_node(node) if node is not None else None)
        session = self._sessions.get(node_id)
        if node is None:
            self.liveness.forget(node_id)
            self.withdrawals.not_awaited(node_id)
            if session is not None:
                self._leave(session)
                session.finish(End(grpc.StatusCode.NOT_FOUND, f"node {node_id} was removed from the swarm"))
        elif session is not None and (old is None or _agent_view(old) != _agent_view(node)):
            self._tell_node(session)

    def _cluster(self, cluster: Cluster, old: Cluster | None, now: int) -> None:
        self._read_network()
        if old is None or old.spec.heartbeat_period_ns != cluster.spec.heartbeat_period_ns:
            self._retime(now)
        if old is None or trusted_roots(old.root_ca) != trusted_roots(cluster.root_ca):
            for session in self._sessions.values():
                self._tell_node(session)

    def _read_network(self) -> None:
        ingress = next((row for row in self._store.networks.values() if row.spec.ingress), None)
        cluster = self._store.cluster
        port = (cluster.data_path_port if cluster is not None else 0) or DEFAULT_DATA_PATH_PORT
        self.mesh.put_network(ingress, port)
        ingress_id = ingress.id if ingress is not None else ""
        if ingress_id != self._ingress_id:
            self._ingress_id = ingress_id
            for task in self._store.tasks.values():
                self.mesh.tasks.put(task.id, endpoint_of(task, ingress_id))

    # ------------------------------------------------------------------------------------------ time

    def tick(self, managers: tuple[str, ...], now: int) -> list[Suspect]:
        """Judge silence, free tasks whose wait is over, follow the managers and the size of the swarm.

        Returns the nodes whose hosts are to be asked whether they are there, for `liveness.answered`.
        """
        judgement = self.liveness.tick(now)
        for verdict in judgement.verdicts:
            log.info("node %s is %s: %s", verdict.node_id, NodeStatus.State.Name(verdict.state), verdict.message)
            self.reports.node(verdict.node_id, NodeChange(verdict.state, verdict.message))
            if verdict.state == NodeStatus.DOWN:
                self.withdrawals.not_awaited(verdict.node_id)
            session = self._sessions.get(verdict.node_id)
            if session is not None:
                self._leave(session)
                session.finish(End(grpc.StatusCode.DEADLINE_EXCEEDED, f"node {verdict.node_id}: {verdict.message}"))
        self._release(now)
        if managers != self._managers:
            self._managers = managers
            for session in self._sessions.values():
                session.managers(managers)
        if abs(self._period() - self.period) * 5 > self.period:
            self._retime(now)
        return [suspect for node_id in judgement.suspects if (suspect := self._suspect(node_id)) is not None]

    def _suspect(self, node_id: str) -> Suspect | None:
        node = self._store.nodes.get(node_id)
        if node is None:
            return None
        host, _, port = node.manager.addr.rpartition(":")
        if host:
            return Suspect(node_id, host.strip("[]"), int(port))
        return Suspect(node_id, node.status.addr, DEFAULT_PORT) if node.status.addr else None

    def _retime(self, now: int) -> None:
        self.period = self._period()
        for session in self._sessions.values():
            session.welcome(self.period)
            self.liveness.retimed(session.node_id, self.period, now)

    def _period(self) -> int:
        cluster = self._store.cluster
        spec_ns = cluster.spec.heartbeat_period_ns if cluster is not None else 0
        return heartbeat_period(spec_ns, len(self._store.nodes))

    def _release(self, now: int) -> None:
        for task_id in self.withdrawals.release(now):
            task = self._store.tasks.get(task_id)
            session = self._sessions.get(task.node_id) if task is not None else None
            if session is not None:
                self._changed(session, task_id)

    # ------------------------------------------------------------------------------------------ small pieces

    def _changed(self, session: Session, task_id: str) -> None:
        session.changed(task_id)
        self.turns.ask(session)

    def _leave(self, session: Session) -> None:
        del self._by_id[session.id]
        del self._sessions[session.node_id]
        self.withdrawals.left(session.id)
        self.turns.leave(session)
        self.logs.node_left(session.node_id)

    def _tell_node(self, session: Session) -> None:
        node, cluster = self._store.nodes.get(session.node_id), self._store.cluster
        if node is not None:
            roots, as_of = (trusted_roots(cluster.root_ca), cluster.meta.version) if cluster is not None else ("", 0)
            session.node(node, roots, as_of)

    def _push_logs(self, node_id: str, subscription: LogSubscription) -> bool:
        session = self._sessions.get(node_id)
        if session is not None:
            session.logs(subscription)
        return session is not None


def _attached(task: Task, network_id: str) -> bool:
    return any(attachment.network_id == network_id for attachment in task.networks)


def _concerns_agent(old: Task | None, new: Task | None) -> bool:
    """Whether the change is more than the agent's own report coming back."""
    if old is None or new is None:
        return True
    return (
        old.desired_state != new.desired_state
        or old.node_id != new.node_id
        or (old.status.state < ASSIGNED <= new.status.state)
    )


def _agent_view(node: Node) -> tuple[object, ...]:
    return (node.spec, node.role, node.manager, node.certificate_expires_ns)
