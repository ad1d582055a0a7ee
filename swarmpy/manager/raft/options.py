"""How one member is set up, and how it tells that it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmpy.errors import SwarmpyError
from swarmpy.manager.raft.progress import Window

__all__ = ["DEFAULTS", "MAX_ENTRY_BYTES", "Ended", "Options"]

MAX_ENTRY_BYTES = 16 << 20    # of one proposal: it travels in one message, and is held in memory by every member


@dataclass(frozen=True, slots=True)
class Options:
    """Times and sizes of one member. The first five are those of the swarm's RaftConfig."""

    tick_s: float = 0.1
    election_ticks: int = 10          # a follower campaigns after 1 to 2 times this without its leader
    heartbeat_ticks: int = 1
    snapshot_interval: int = 10_000   # entries between snapshots
    log_entries_for_slow_followers: int = 500
    read_timeout_s: float = 5.0
    change_timeout_s: float = 60.0    # for a learner to catch up, and for a change to be committed
    window: Window = field(default_factory=Window)


DEFAULTS = Options()


class Ended(SwarmpyError):
    """Why a member stopped by itself: it was removed, or its disk or state machine failed."""

    def __init__(self, text: str, *, removed: bool) -> None:
        super().__init__(text)
        self.removed = removed
