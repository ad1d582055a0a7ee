"""One node's stream, seen from the leader: what is due to be sent to it.

Owns    flags and small sets of what the agent must still be told; the messages themselves are made when the stream can
        take them, from what is then true. A node that reads slowly therefore costs the leader nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from swarmpy.manager.dispatcher.assignments import AssignmentFeed
from swarmpy.manager.dispatcher.mesh import MeshBook
from swarmpy.rpc.dispatcher_pb2 import (
    LogSubscription,
    Managers,
    NodeState,
    ReportStored,
    ToAgent,
    Welcome,
)
from swarmpy.rpc.types_pb2 import Node

__all__ = ["End", "Session"]


@dataclass(frozen=True, slots=True)
class End:
    """Why the leader ends a stream."""

    code: grpc.StatusCode
    details: str


class Session:
    """What is due to one agent. Setters mark and wake; `drain` turns marks into messages.

    Changed tasks alone do not wake: sessions have turns, so that what changes meanwhile shares a message (see `turns`).
    """

    def __init__(self, session_id: str, node_id: str, feed: AssignmentFeed, book: MeshBook) -> None:
        self.id = session_id
        self.node_id = node_id
        self.feed = feed
        self.wake = asyncio.Event()
        self.end: End | None = None
        self._admitted = False
        self._book = book
        self._mesh_sent = 0
        self._welcome: Welcome | None = None
        self._managers: Managers | None = None
        self._node: NodeState | None = None
        self._stored: int | None = None
        self._logs: deque[LogSubscription] = deque()
        self._has_turn = True           # the complete set waits for nothing

    def finish(self, end: End) -> None:
        """End the stream once what was drained has been sent."""
        self.end = self.end or end
        self.wake.set()

    def admit(self) -> None:
        """What Hello said is stored: whoever asks after the agent has been welcomed finds the node READY."""
        self._admitted = True
        self.wake.set()

    def welcome(self, period_ns: int) -> None:
        """Say who the agent is and how often it must speak."""
        self._welcome = Welcome(session_id=self.id, node_id=self.node_id, heartbeat_period_ns=period_ns)
        self.wake.set()

    def managers(self, addrs: tuple[str, ...]) -> None:
        """Say where managers are, the leader first."""
        self._managers = Managers(addrs=addrs)
        self.wake.set()

    def node(self, node: Node, root_ca_pem: str, as_of: int) -> None:
        """Say what the store has on the agent's node, and the roots to trust as of a version of the cluster."""
        self._node = NodeState(node=node, root_ca_pem=root_ca_pem, as_of=as_of)
        self.wake.set()

    def stored(self, sequence: int) -> None:
        """Say that all reports up to this one are stored."""
        self._stored = sequence
        self.wake.set()

    def logs(self, subscription: LogSubscription) -> None:
        """Ask for logs, or close a subscription. Bounded by the number of subscriptions."""
        self._logs.append(subscription)
        self.wake.set()

    def changed(self, task_id: str) -> None:
        """A task of this node may have something new to tell, when the session has its turn."""
        self.feed.changed(task_id)

    def assign(self) -> None:
        """It is this session's turn: say what the agent must know of its tasks."""
        self._has_turn = True
        self.wake.set()

    def drain(self) -> Iterator[ToAgent | bytes]:
        """Everything due, each made when it is taken. Mesh before assignments: endpoints go before their tasks do."""
        if not self._admitted:
            return
        if self._welcome is not None:
            message, self._welcome = ToAgent(welcome=self._welcome), None
            yield message
        if self._managers is not None:
            message, self._managers = ToAgent(managers=self._managers), None
            yield message
        if self._node is not None:
            message, self._node = ToAgent(node=self._node), None
            yield message
        while self._logs:
            yield ToAgent(logs=self._logs.popleft())
        if self._mesh_sent != self._book.version:
            since, self._mesh_sent = self._mesh_sent, self._book.version
            yield from self._book.encode(since)
        if self._stored is not None:
            message, self._stored = ToAgent(stored=ReportStored(sequence=self._stored)), None
            yield message
        has_turn, self._has_turn = self._has_turn, False
        while has_turn and self.feed.pending:
            assignments = self.feed.take()
            if assignments is not None:
                yield ToAgent(assignments=assignments)
