"""The services between nodes, called with whatever bytes an attacker likes."""

from __future__ import annotations

import contextlib

import grpc
import grpc.aio

from swarmpy.identity import NodeIdentity
from swarmpy.identity.certificates import MANAGER_NAME
from swarmpy.rpc import ca_pb2, control_pb2, dispatcher_pb2, logs_pb2, membership_pb2, raft_pb2

FILES = (ca_pb2, control_pb2, dispatcher_pb2, logs_pb2, membership_pb2, raft_pb2)
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
PATIENCE_S = 15.0


def reckless(identity: NodeIdentity, addr: str) -> grpc.aio.Channel:
    """A channel of a node's that sends what is longer than nodes send."""
    credential = identity.credential()
    credentials = grpc.ssl_channel_credentials(identity.root_ca_pem, credential.key, credential.certificate)
    options = (("grpc.ssl_target_name_override", MANAGER_NAME), ("grpc.max_send_message_length", -1))
    return grpc.aio.secure_channel(addr, credentials, options=options)


async def refusal(channel: grpc.aio.Channel, method: str, request: bytes = b"") -> tuple[grpc.StatusCode, str]:
    """How a call of `method` ends that sends one message. On the wire every kind of call is a stream."""
    call = channel.unary_stream(method, bytes, bytes)(request, timeout=PATIENCE_S)
    with contextlib.suppress(grpc.aio.AioRpcError):     # the code says it
        async for _ in call:
            continue
    code, details = await call.code(), await call.details() or ""
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} neither answers nor refuses"
    return code, details
