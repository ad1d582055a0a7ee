"""What the API may ask of a swarm, on any manager: done here when this manager leads, forwarded when another does.

A request is sent on only when it is certain that it was not carried out: the other side said it does not lead, or was
never reached. When the lead is lost while a request is under way its outcome is unknown; creation is then repeated
(its id makes that harmless) and anything else is reported, for the caller to read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from swarmpy.errors import Conflict, Unavailable
from swarmpy.manager.control.cluster import NewSecrets, update_cluster
from swarmpy.manager.control.errors import received
from swarmpy.manager.control.nodes import remove_node, update_node
from swarmpy.manager.control.services import CheckRunnable, create_service, remove_service, update_service
from swarmpy.manager.replicated_log import Leadership, NotLeader, ReplicatedLog
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.control_pb2 import (
    CreateServiceRequest,
    Done,
    RemoveNodeRequest,
    RemoveRequest,
    ServiceResponse,
    UpdateClusterRequest,
    UpdateNodeRequest,
    UpdateServiceRequest,
)
from swarmpy.rpc.control_pb2_grpc import ControlStub

__all__ = ["Control", "LeaderControl"]

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

LAST_WORD_S = 0.2       # how long a leader that no longer leads is waited for: it may just be answering
TRIES = 16              # of a write that others keep coming before; each takes a round through the log
PATIENCE_S = 6.0       # how long a request waits for a leader: an election and a little more


class LeaderControl:
    """The same requests, on the leader: NotLeader when this manager is not."""

    def __init__(
        self,
        store: Store,
        log: ReplicatedLog,
        clock: Callable[[], int],
        new_secrets: NewSecrets,
        check_runnable: CheckRunnable,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._new_secrets = new_secrets
        self._check_runnable = check_runnable

    async def create_service(self, request: CreateServiceRequest) -> ServiceResponse:
        self._check_leads()
        done = self._store.services.get(request.id)
        if done is not None:
            return ServiceResponse(service=done)
        service, transaction = create_service(self._store, request.id, request.spec, self._check_runnable)
        await self._store.commit(transaction)
        return ServiceResponse(service=self._store.services.get(request.id) or service)

    async def update_service(self, request: UpdateServiceRequest) -> ServiceResponse:
        self._check_leads()
        spec = None if request.rollback else request.spec
        await self._decide_and_commit(
            lambda: update_service(
                self._store, request.id, request.version, spec, self._clock(), self._check_runnable
            )
        )
        return ServiceResponse(service=self._store.services[request.id])

    async def remove_service(self, request: RemoveRequest) -> Done:
        self._check_leads()
        await self._decide_and_commit(lambda: remove_service(self._store, request.id))
        return Done()

    async def update_node(self, request: UpdateNodeRequest) -> Done:
        self._check_leads()
        await self._decide_and_commit(
            lambda: update_node(
                self._store, self._log.members(), request.id, request.version, request.spec
            )
        )
        return Done()

    async def remove_node(self, request: RemoveNodeRequest) -> Done:
        self._check_leads()
        await self._decide_and_commit(
            lambda: remove_node(self._store, self._log.members(), request.id, force=request.force)
        )
        return Done()

    async def update_cluster(self, request: UpdateClusterRequest) -> Done:
        self._check_leads()
        await self._store.commit(update_cluster(self._store, request, self._new_secrets))
        return Done()

    async def _decide_and_commit(self, decide: Callable[[], Transaction]) -> None:
        """Commit what is decided; when somebody wrote to the object meanwhile, decide again on what is there now."""
        for left in reversed(range(TRIES)):
            transaction = decide()
            try:
                await self._store.commit(transaction)
                return
            except Conflict:
                if not left:
                    raise

    def _check_leads(self) -> None:
        leadership = self._log.leadership
        if not leadership.is_leader:
            raise NotLeader(leadership.leader_addr)


class Control:
    """The door for the API on every manager. Raises what the operations raise, and Unavailable without a leader."""

    def __init__(
        self, leader: LeaderControl, log: ReplicatedLog, channel: Callable[[str], grpc.aio.Channel]
    ) -> None:
        self._leader = leader
        self._log = log
        self._channel = channel
        self._changed = asyncio.Event()
        self._peer: tuple[str, grpc.aio.Channel] | None = None     # to the last leader asked
        self._closing: set[asyncio.Task[None]] = set()
        log.on_leadership(self._on_leadership)

    async def close(self) -> None:
        self._hang_up()
        if self._closing:
            await asyncio.wait(self._closing)

    def renewed(self) -> None:
        """This manager has another certificate, or trusts other roots: requests from now on go over a channel with
        these. Those under way end as they would have."""
        self._hang_up(PATIENCE_S)

    async def create_service(self, request: CreateServiceRequest) -> ServiceResponse:
        return await self._ask(
            lambda: self._leader.create_service(request),
            lambda stub: stub.CreateService(request),
            repeatable=True,
        )

    async def update_service(self, request: UpdateServiceRequest) -> ServiceResponse:
        return await self._ask(
            lambda: self._leader.update_service(request), lambda stub: stub.UpdateService(request)
        )

    async def remove_service(self, request: RemoveRequest) -> Done:
        return await self._ask(
            lambda: self._leader.remove_service(request), lambda stub: stub.RemoveService(request)
        )

    async def update_node(self, request: UpdateNodeRequest) -> Done:
        return await self._ask(lambda: self._leader.update_node(request), lambda stub: stub.UpdateNode(request))

    async def remove_node(self, request: RemoveNodeRequest) -> Done:
        return await self._ask(lambda: self._leader.remove_node(request), lambda stub: stub.RemoveNode(request))

    async def update_cluster(self, request: UpdateClusterRequest) -> Done:
        return await self._ask(
            lambda: self._leader.update_cluster(request), lambda stub: stub.UpdateCluster(request)
        )

    async def _ask(
        self,
        here: Callable[[], Awaitable[Response]],
        there: Callable[[ControlStub], Awaitable[Response]],
        *,
        repeatable: bool = False,
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while True:
            leadership = self._log.leadership
            try:
                if leadership.is_leader:
                    return await here()
                if leadership.leader_addr is None:
                    raise NotLeader(None)
                return await self._forward(leadership, there, deadline - loop.time())
            except NotLeader as error:
                if error.lost and not repeatable:
                    raise Unavailable(
                        "the leader changed while the request was under way; it may have been carried out: "
                        "read the object again before repeating it"
                    ) from error
                if loop.time() >= deadline:
                    raise Unavailable(
                        "The swarm does not have a leader. It's possible that too few managers are online. "
                        "Make sure more than half of the managers are online."
                    ) from error
            await self._leader_change(leadership, deadline - loop.time())

    async def _forward(
        self, leadership: Leadership, there: Callable[[ControlStub], Awaitable[Response]], timeout_s: float
    ) -> Response:
        addr = leadership.leader_addr or ""
        if self._peer is None or self._peer[0] != addr:
            self._hang_up()
            self._peer = (addr, self._channel(addr))
        channel = self._peer[1]
        reached = asyncio.ensure_future(channel.channel_ready())
        if not await self._finished(reached, leadership, 0.0, timeout_s):
            raise NotLeader(None)                # never reached: certainly not carried out
        answer = asyncio.ensure_future(there(ControlStub(channel)))
        try:
            if not await self._finished(answer, leadership, LAST_WORD_S):
                raise NotLeader(addr, lost=True)
            return answer.result()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                if self._peer is not None and self._peer[1] is channel:
                    self._hang_up()
                raise NotLeader(addr, lost=True) from error
            raise received(error) from error

    async def _finished(
        self, work: asyncio.Future[Any], leadership: Leadership, last_word_s: float, timeout_s: float | None = None
    ) -> bool:
        """Wait for work that only this leader can do; whether it is done. When another leads, this one may have lost
        power, and is waited for `last_word_s` more. Its channel may be closed meanwhile, which cancels the work."""
        deposed = asyncio.create_task(self._deposed(leadership))
        try:
            await asyncio.wait({work, deposed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if deposed.done():
                await asyncio.wait({work}, timeout=last_word_s)
            return work.done() and not work.cancelled()
        finally:
            work.cancel()
            deposed.cancel()

    def _hang_up(self, grace_s: float = LAST_WORD_S) -> None:
        """Close the channel, once the requests on it have had their last word."""
        if self._peer is not None:
            closing = asyncio.create_task(self._peer[1].close(grace_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._peer = None

    async def _deposed(self, seen: Leadership) -> None:
        """Until another leader is known than `seen`."""
        while (now := self._log.leadership) == seen or (now.leader_addr is None and not now.is_leader):
            await self._leader_change(now, PATIENCE_S)

    async def _leader_change(self, seen: Leadership, timeout_s: float) -> None:
        """Wait until the leadership is another than `seen`, but ask again now and then all the same."""
        while self._log.leadership == seen:
            self._changed.clear()
            try:
                async with asyncio.timeout(max(min(timeout_s, 0.25), 0.01)):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _on_leadership(self, _: Leadership) -> None:
        self._changed.set()
