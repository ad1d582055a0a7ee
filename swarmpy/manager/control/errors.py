"""Refusals across gRPC: a kind of SwarmpyError goes out as a status code and comes back as the same kind."""

from __future__ import annotations

from typing import Any, cast

import grpc
import grpc.aio

from swarmpy.errors import (
    Conflict,
    Forbidden,
    Internal,
    InvalidArgument,
    NotFound,
    NotSupported,
    SwarmpyError,
    Unavailable,
)
from swarmpy.manager.replicated_log import NotLeader

__all__ = ["LEADER_METADATA", "abort", "received"]

LEADER_METADATA = "leader-addr"
LOST_METADATA = "lead-lost"         # the lead was lost while the request was under way: it may have been carried out

CODES: tuple[tuple[type[SwarmpyError], grpc.StatusCode], ...] = (
    (NotLeader, grpc.StatusCode.FAILED_PRECONDITION),   # before Unavailable, of which it is one
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ABORTED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (NotSupported, grpc.StatusCode.UNIMPLEMENTED),
    (Internal, grpc.StatusCode.INTERNAL),
)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: SwarmpyError) -> None:
    """End the call with the status code of the error's kind. Does not return."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
    metadata: list[tuple[str, str]] = []
    if isinstance(error, NotLeader):
        if error.leader_addr:
            metadata.append((LEADER_METADATA, error.leader_addr))
        if error.lost:
            metadata.append((LOST_METADATA, "true"))
    await context.abort(code, str(error), tuple(metadata))


def received(error: grpc.aio.AioRpcError) -> SwarmpyError:
    """The error that the other side gave to `abort`. Anything else that broke the call is Unavailable."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        metadata = cast("grpc.aio.Metadata", error.trailing_metadata())   # the stubs call it a tuple
        leader = metadata.get(LEADER_METADATA)
        return NotLeader(str(leader) if leader else None, lost=LOST_METADATA in metadata)
    for kind, known in CODES:
        if known is code:
            return kind(details)
    return Unavailable(f"the leader did not answer: {code.name}: {details}")
