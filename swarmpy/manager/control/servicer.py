"""The Control service of gRPC, on every manager: only the leader does what is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio

from swarmpy.errors import SwarmpyError
from swarmpy.manager.control.control import LeaderControl
from swarmpy.manager.control.errors import abort
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
from swarmpy.rpc.control_pb2_grpc import ControlServicer as GeneratedServicer

__all__ = ["ControlServicer"]

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]


class ControlServicer(GeneratedServicer):
    """`authorize` raises SwarmpyError (Forbidden) unless the peer is a manager."""

    def __init__(self, leader: LeaderControl, authorize: Callable[[Context], None]) -> None:
        self._leader = leader
        self._authorize = authorize

    async def CreateService(self, request: CreateServiceRequest, context: Context) -> ServiceResponse:  # noqa: N802
        return await self._answer(self._leader.create_service, request, context)

    async def UpdateService(self, request: UpdateServiceRequest, context: Context) -> ServiceResponse:  # noqa: N802
        return await self._answer(self._leader.update_service, request, context)

    async def RemoveService(self, request: RemoveRequest, context: Context) -> Done:  # noqa: N802
        return await self._answer(self._leader.remove_service, request, context)

    async def UpdateNode(self, request: UpdateNodeRequest, context: Context) -> Done:  # noqa: N802
        return await self._answer(self._leader.update_node, request, context)

    async def RemoveNode(self, request: RemoveNodeRequest, context: Context) -> Done:  # noqa: N802
        return await self._answer(self._leader.remove_node, request, context)

    async def UpdateCluster(self, request: UpdateClusterRequest, context: Context) -> Done:  # noqa: N802
        return await self._answer(self._leader.update_cluster, request, context)

    async def _answer(
        self, operation: Callable[[Request], Awaitable[Response]], request: Request, context: Context
    ) -> Response:
        try:
            self._authorize(context)
            return await operation(request)
        except SwarmpyError as error:
            await abort(context, error)
            raise
