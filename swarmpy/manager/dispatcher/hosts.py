"""Asking a host whether it is there, when its daemon is silent.

Its kernel answers, not the daemon: a TCP connection is accepted where something listens and refused where nothing does
(RFC 9293, 3.10.7.1). Silence proves nothing, as a firewall may drop the question.
"""

from __future__ import annotations

import asyncio

__all__ = ["host_answers"]


async def host_answers(host: str, port: int, patience_s: float) -> bool:
    """Whether the host at this IP address accepts or refuses a connection in time."""
    try:
        async with asyncio.timeout(patience_s):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except OSError:                              # TimeoutError too
        return False
    writer.transport.abort()
    return True
