"""Keeping the certificate young: a new one after 50 to 80 % of its life, or at once when asked.

The moment is random so that the nodes of a swarm that was made in one minute do not all renew in one minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from swarmpy.errors import SwarmpyError
from swarmpy.identity.joining import renew
from swarmpy.identity.node_identity import NodeIdentity

__all__ = ["Renewer", "renewal_time_ns"]

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 60.0


def renewal_time_ns(valid_ns: tuple[int, int], fraction: float) -> int:
    """When to renew: `fraction` (0 to 1) chooses within 50 to 80 % of the lifetime."""
    start, end = valid_ns
    return start + int((end - start) * (0.5 + 0.3 * fraction))


class Renewer:
    """Renews `identity` in time, from the managers that `managers` names (host:port, the best first)."""

    def __init__(
        self, identity: NodeIdentity, managers: Callable[[], Sequence[str]], clock: Callable[[], int], random: Random
    ) -> None:
        self._identity = identity
        self._managers = managers
        self._clock = clock
        self._random = random
        self._wanted = asyncio.Event()

    def renew_now(self) -> None:
        """Ask for a new certificate at once: the swarm wants this node in another role."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled. A manager that refuses or is silent is asked again later; the old certificate stays."""
        due_ns = self._next()
        retry_s = RETRY_FIRST_S
        while True:
            wait_s = max(due_ns - self._clock(), 0) / 1e9
            try:
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass                            # the usual case: time to renew
            self._wanted.clear()
            try:
                await self._identity.install(await renew(self._identity, self._managers()))
            except SwarmpyError as failure:
                log.warning("could not renew the certificate: %s", failure)
                due_ns = self._clock() + int(retry_s * 1e9)
                retry_s = min(retry_s * 2, RETRY_LAST_S)
            else:
                log.info("renewed the certificate", extra={"node": self._identity.node_id})
                due_ns = self._next()
                retry_s = RETRY_FIRST_S

    def _next(self) -> int:
        return renewal_time_ns(self._identity.valid_ns, self._random.random())
