"""The leader's end of the wire: gRPC streams in, transactions out.

Owns    the servicers of `Dispatcher` and `Logs`, and the loops of one term: the store's watch, the clock, the mesh, and
        the writer of reports. Every decision is made in `term` and its cores.
Laws    only a leader whose `run` is running serves; everybody else is sent to `leader-addr`. A report is answered after
        its transaction is committed. One transaction carries many nodes' reports; a conflict splits it until only what
        really conflicts is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message

from swarmpy.errors import Conflict, Forbidden, InvalidArgument, NotFound, SwarmpyError, Unavailable
from swarmpy.manager.dispatcher.bounds import check
from swarmpy.manager.dispatcher.hosts import host_answers
from swarmpy.manager.dispatcher.pace import Pace
from swarmpy.manager.dispatcher.reports import Batch, Key
from swarmpy.manager.dispatcher.session import End, Session
from swarmpy.manager.dispatcher.term import Suspect, Term
from swarmpy.manager.dispatcher.turns import TURN_S
from swarmpy.manager.replicated_log import ReplicatedLog
from swarmpy.manager.store import IdSource, Store, Transaction, Watch, ids_from, in_turns
from swarmpy.rpc.dispatcher_pb2 import FromAgent
from swarmpy.rpc.logs_pb2 import LogBatch, LogRequest, Published
from swarmpy.rpc.types_pb2 import MANAGER

__all__ = ["LEADER_ADDR", "Dispatcher", "Statistics"]

LEADER_ADDR = "leader-addr"      # trailing metadata
TICK_S = 0.1
GATHER_S = 0.002                 # reports of this long share a transaction
MESH_S_PER_NODE = 0.00025        # a mesh update and its answer cost the leader so much a node; it spends half its time
CALM_S_PER_NODE = 0.005          # so long waits an update of which no connection depends
CALM_MOST_S = 10.0
TRANSACTION_OBJECTS = 100
TRANSACTIONS_IN_FLIGHT = 2       # a read waits until all that was committed before it is applied
RETRY_S = 0.1
HELLO_S = 10.0                   # for the first message of a stream
QUESTIONS = 256                  # hosts asked at the same time; a suspect beyond them is judged by its silence alone
QUESTIONS_A_PERIOD = 2           # to a host that says nothing; its kernel answers in milliseconds

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a serving dispatcher can say of itself."""

    sessions: int
    mesh_version: int
    held: int                    # tasks whose end waits for their withdrawal from the mesh
    judged_ns: int               # monotonic time of the last look at heartbeats


class Dispatcher:
    """Keeps every node's agent up to date, and the store on what agents see.

    `authorize` names the node at the other end, or raises Forbidden; `monotonic` gives ns and never jumps;
    `host_answers` asks the host at an address and port whether it is there, for at most so many seconds.
    """

    def __init__(
        self,
        store: Store,
        replicated_log: ReplicatedLog,
        authorize: Callable[[Context], str],
        *,
        monotonic: Callable[[], int] = time.monotonic_ns,
        new_id: IdSource | None = None,
        host_answers: Callable[[str, int, float], Awaitable[bool]] = host_answers,
    ) -> None:
        self._store = store
        self._log = replicated_log
        self._authorize = authorize
        self._now = monotonic
        self._new_id = new_id or ids_from(random.SystemRandom())
        self._term: Term | None = None
        self._host_answers = host_answers
        self._reports_wake = asyncio.Event()
        self._mesh_wake = asyncio.Event()
        self._turns_wake = asyncio.Event()
        self._pace = Pace()

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Serve `swarmpy.v1.Dispatcher` and `swarmpy.v1.Logs`. A mesh update is serialized once, not once a stream."""
        session = grpc.stream_stream_rpc_method_handler(
            self._session, request_deserializer=FromAgent.FromString, response_serializer=_serialize
        )
        subscribe = grpc.unary_stream_rpc_method_handler(
            self._subscribe, request_deserializer=LogRequest.FromString, response_serializer=_serialize
        )
        publish = grpc.stream_unary_rpc_method_handler(
            self._publish, request_deserializer=LogBatch.FromString, response_serializer=_serialize
        )
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("swarmpy.v1.Dispatcher", {"Session": session}),
            grpc.method_handlers_generic_handler("swarmpy.v1.Logs", {"Subscribe": subscribe, "Publish": publish}),
        ))

    async def run(self) -> None:
        """Serve for one leadership, until cancelled. Sessions then end and their agents look for the next leader."""
        with self._store.watch("nodes", "tasks", "services", "networks", "cluster") as watch:
            term = Term(self._store, self._new_id, self._now())
            await term.begin(self._now())
            self._term = term
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch(term, watch))
                    group.create_task(self._tick(term, group))
                    group.create_task(self._publish_mesh(term))
                    group.create_task(self._give_turns(term))
                    group.create_task(self._store_reports(term))
            finally:
                self._term = None
                term.finish_all(End(grpc.StatusCode.FAILED_PRECONDITION, "this manager no longer leads"))

    def statistics(self) -> Statistics | None:
        """None while this manager does not serve."""
        term = self._term
        if term is None:
            return None
        return Statistics(term.connected, term.mesh.version, len(term.withdrawals), term.liveness.judged)

    async def subscribe_logs(self, request: LogRequest) -> AsyncIterator[LogBatch]:
        """What `Logs.Subscribe` serves, for the leader's own API. Raises Unavailable while it does not lead."""
        if self._term is None:
            raise Unavailable("this manager does not lead the swarm")
        async for batch in self._term.logs.subscribe(request):
            yield batch

    # ------------------------------------------------------------------------------------------ the term's loops

    async def _watch(self, term: Term, watch: Watch) -> None:
        async for events in watch:
            async for part in in_turns(events):
                now = self._now()
                for event in part:
                    term.feed(event, now)
                self._notice(term)

    async def _tick(self, term: Term, group: asyncio.TaskGroup) -> None:
        questions: set[asyncio.Task[None]] = set()
        while True:
            for suspect in term.tick(self._manager_addrs(), self._now()):
                if len(questions) < QUESTIONS:
                    question = group.create_task(self._ask(term, suspect))
                    questions.add(question)
                    question.add_done_callback(questions.discard)
            self._notice(term)
            await asyncio.sleep(TICK_S)

    async def _ask(self, term: Term, suspect: Suspect) -> None:
        """Until it answers or is no suspect any more: an answer may be missed while this loop stands still.

        A host that there is no way to says so at once, which is no reason to ask it more often.
        """
        pause_ns, due = term.period // QUESTIONS_A_PERIOD, self._now()
        while term.liveness.doubts(suspect.node_id):
            if self._now() >= due:
                due = self._now() + pause_ns
                if await self._host_answers(suspect.host, suspect.port, pause_ns / 1e9):
                    term.liveness.answered(suspect.node_id)
                    return
            await asyncio.sleep(TICK_S)

    async def _publish_mesh(self, term: Term) -> None:
        while True:
            await self._mesh_wake.wait()
            self._mesh_wake.clear()
            await self._mesh_calm(term)
            term.flush_mesh()
            await asyncio.sleep(max(GATHER_S, 2 * MESH_S_PER_NODE * term.connected))

    async def _mesh_calm(self, term: Term) -> None:
        """While only nodes come and go, those of a longer while share a version: everybody is told of everybody."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(CALM_MOST_S, CALM_S_PER_NODE * term.connected)):
                while not term.mesh.urgent:
                    await self._mesh_wake.wait()
                    self._mesh_wake.clear()

    async def _give_turns(self, term: Term) -> None:
        while True:
            await self._turns_wake.wait()
            self._turns_wake.clear()
            while term.turns.waiting:
                await asyncio.sleep(TURN_S * term.turns.give())

    async def _store_reports(self, term: Term) -> None:
        while True:
            await self._reports_wake.wait()
            await asyncio.sleep(GATHER_S)
            self._reports_wake.clear()
            batch = term.reports.take()
            keys = batch.keys()
            parts = [keys[start : start + TRANSACTION_OBJECTS] for start in range(0, len(keys), TRANSACTION_OBJECTS)]
            gate = asyncio.Semaphore(TRANSACTIONS_IN_FLIGHT)
            await asyncio.gather(*(self._write_in_turn(batch, part, gate) for part in parts))
            term.answer(batch.answers)

    async def _write_in_turn(self, batch: Batch, keys: list[Key], gate: asyncio.Semaphore) -> None:
        async with gate:
            await self._write(batch, keys)

    async def _write(self, batch: Batch, keys: list[Key]) -> None:
        """Commit these objects' news. While others write the same objects, what conflicts is built and tried anew."""
        while True:
            transaction = Transaction()
            transaction.put(*batch.objects(keys, self._store.tasks.get, self._store.nodes.get))
            try:
                await self._store.commit(transaction)
                return
            except (Conflict, InvalidArgument) as error:
                if len(keys) > 1:
                    half = len(keys) // 2
                    await asyncio.gather(self._write(batch, keys[:half]), self._write(batch, keys[half:]))
                    return
                if isinstance(error, InvalidArgument):      # it never will be valid, and others wait behind it
                    log.error("a report was refused by the store: %s", error)
                    return
            except Unavailable as error:         # no quorum or no longer leader: `run` is cancelled if it is the latter
                log.info("reports of agents wait: %s", error)
                await asyncio.sleep(RETRY_S)

    def _notice(self, term: Term) -> None:
        if term.reports.pending:
            self._reports_wake.set()
        if term.mesh.dirty:
            self._mesh_wake.set()
        if term.turns.waiting:
            self._turns_wake.set()

    def _manager_addrs(self) -> tuple[str, ...]:
        members = sorted(self._log.members(), key=lambda member: (not member.leader, member.addr))
        return tuple(member.addr for member in members)

    # ------------------------------------------------------------------------------------------ Dispatcher.Session

    async def _session(self, _: AsyncIterator[FromAgent], context: Context) -> None:
        term = self._term
        if term is None:
            await self._refuse(context)
        try:
            node_id = self._authorize(context)
            hello = await self._hello(context, node_id)
        except SwarmpyError as error:
            await abort(context, error)
        term = self._term                       # another, or none, if it ended while the first words were on their way
        if term is None:
            await self._refuse(context)
        session = term.open(node_id, hello.hello, peer_address(context.peer()), self._now())
        self._notice(term)
        reader = asyncio.create_task(self._read(term, session, context))
        try:
            await self._send(session, context)
            if session.end is not None:
                if session.end.code is grpc.StatusCode.FAILED_PRECONDITION:
                    await self._refuse(context)
                if session.end.code is not grpc.StatusCode.OK:
                    await context.abort(session.end.code, session.end.details)
        finally:
            reader.cancel()
            term.close(session, self._now())
            self._notice(term)

    async def _hello(self, context: Context, node_id: str) -> FromAgent:
        if self._store.nodes.get(node_id) is None:
            raise NotFound(f"node {node_id} is not part of this swarm: it was removed, or never joined")
        try:
            async with asyncio.timeout(HELLO_S):
                first = await context.read()
        except TimeoutError:
            raise InvalidArgument(f"node {node_id} opened a session and said nothing for {HELLO_S:.0f} s") from None
        if not isinstance(first, FromAgent) or first.WhichOneof("message") != "hello":
            raise InvalidArgument(f"node {node_id}: the first message of a session must be hello")
        check(node_id, first)
        return first

    async def _read(self, term: Term, session: Session, context: Context) -> None:
        end = End(grpc.StatusCode.OK, "")
        try:
            while isinstance(message := await context.read(), FromAgent):
                check(session.node_id, message)
                term.receive(session, message, self._now())
                self._notice(term)
        except (InvalidArgument, DecodeError) as error:
            end = End(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            session.finish(end)

    async def _send(self, session: Session, context: Context) -> None:
        while True:
            for message in session.drain():
                await context.write(message)
            if session.end is not None:
                return
            await session.wake.wait()
            await self._pace.turn()
            session.wake.clear()

    async def _refuse(self, context: Context) -> NoReturn:
        """Send the peer to the leader, as far as this manager knows it."""
        leadership = self._log.leadership
        known = leadership.leader_addr if not leadership.is_leader else None
        trailing = ((LEADER_ADDR, known),) if known else ()
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this manager does not lead the swarm", trailing)
        raise AssertionError("abort raises")

    # ------------------------------------------------------------------------------------------ Logs

    async def _subscribe(self, request: LogRequest, context: Context) -> None:
        term = self._term
        if term is None:
            await self._refuse(context)
        try:
            node = self._store.nodes.get(self._authorize(context))
            if node is None or node.role != MANAGER:
                raise Forbidden("only managers may subscribe to logs of services")
            async for batch in term.logs.subscribe(request):
                await context.write(batch)
        except SwarmpyError as error:
            await abort(context, error)

    async def _publish(self, batches: AsyncIterator[LogBatch], context: Context) -> Published:
        term = self._term
        if term is None:
            await self._refuse(context)
        try:
            await term.logs.publish(self._authorize(context), batches)
        except SwarmpyError as error:
            await abort(context, error)
        return Published()


_CODES: tuple[tuple[type[SwarmpyError], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)


async def abort(context: Context, error: SwarmpyError) -> NoReturn:
    """End the call with the status code of the error's kind and the error's text."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(code, str(error))
    raise AssertionError("abort raises")


def peer_address(peer: str) -> str:
    """The IP address in gRPC's name of a peer: "ipv4:192.0.2.1:5", "ipv6:%5B2001:db8::1%5D:5"; "" for other kinds."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]").partition("%")[0]


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
