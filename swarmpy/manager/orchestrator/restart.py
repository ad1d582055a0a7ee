"""Whether a task that is no longer where it should be gets a successor, and when. Pure.

What the policy needs to remember travels in the tasks: each successor carries the times of the restarts before it, so
that neither a new leader nor a short task history forgets how often a slot was restarted.

Source  Docker Engine API, TaskSpec.RestartPolicy. A node that goes away is not an exit: it uses up no attempt and waits
        for no delay, though a policy of `none` holds there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.rpc.types_pb2 import COMPLETE, ORPHANED, RestartPolicy, Task

__all__ = ["DEFAULT_DELAY_NS", "Restart", "restart_of"]

DEFAULT_DELAY_NS = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Restart:
    """A successor may be made."""

    start_after_ns: int             # 0: at once
    restarts_ns: tuple[int, ...]    # what the successor carries on


def restart_of(task: Task, policy: RestartPolicy, now: int, *, exited: bool) -> Restart | None:
    """What the policy says of a task that ended (`exited`) or that its node cannot keep. None: leave the slot."""
    condition = policy.condition
    if condition == RestartPolicy.NONE:
        return None
    if not exited or task.status.state == ORPHANED:
        return Restart(0, tuple(task.restarts_ns))
    if condition == RestartPolicy.ON_FAILURE and task.status.state == COMPLETE:
        return None
    delay_ns = policy.delay_ns if policy.HasField("delay_ns") else DEFAULT_DELAY_NS
    start_after = now + delay_ns if delay_ns else 0
    if not policy.max_attempts:
        return Restart(start_after, ())
    earlier = tuple(time for time in task.restarts_ns if not policy.window_ns or time > now - policy.window_ns)
    if len(earlier) >= policy.max_attempts:
        return None
    return Restart(start_after, (*earlier, now))
