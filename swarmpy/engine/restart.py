"""Whether, and when, a container that ended is started again. Pure.

Source  Docker Engine API, definition RestartPolicy. The wait doubles from 100 ms to 60 s; a run of 10 s resets it.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.engine.config import RestartPolicy
from swarmpy.engine.state import ContainerState, Status

__all__ = ["Decision", "after_daemon_start", "after_exit"]

_FIRST_NS, _MOST_NS = 100_000_000, 60_000_000_000
_GOOD_RUN_NS = 10_000_000_000


@dataclass(frozen=True)
class Decision:
    """`wait_ns` until the next start, or None: it stays ended."""

    wait_ns: int | None
    backoff_ns: int = 0
    """To be handed to the next decision."""


def after_exit(policy: RestartPolicy, state: ContainerState, exit_code: int, ran_ns: int, backoff_ns: int) -> Decision:
    """What follows the end of a process that ran for `ran_ns`. `state` is the one before the end."""
    if state.stopped_by_user:
        return Decision(None)
    match policy.name:
        case "always" | "unless-stopped":
            again = True
        case "on-failure":
            tries = policy.maximum_retry_count
            again = exit_code != 0 and (tries == 0 or state.restart_count < tries)
        case _:
            again = False
    if not again:
        return Decision(None)
    wait = _FIRST_NS if ran_ns >= _GOOD_RUN_NS or backoff_ns == 0 else min(2 * backoff_ns, _MOST_NS)
    return Decision(wait, wait)


def after_daemon_start(policy: RestartPolicy, state: ContainerState) -> bool:
    """Whether a container that does not run is started when the daemon starts.

    `always` comes back even when an operator had stopped it; `unless-stopped` does not. One that was between two runs
    continues. A container that was never started stays so.
    """
    if state.status is Status.CREATED:
        return False
    if state.status is Status.RESTARTING:
        return True
    return policy.name == "always" or (policy.name == "unless-stopped" and not state.stopped_by_user)
