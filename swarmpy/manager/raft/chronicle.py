"""What the daemon's log tells of elections: every step of this member, and every vote it gives.

The lines of all managers, side by side, say why a leader was slow to come: who noticed what when, who stood, who was
refused, and what waited for the disk or for the processor.
"""

from __future__ import annotations

import logging

from swarmpy.manager.raft.candidate import Candidate
from swarmpy.manager.raft.core import Raft
from swarmpy.manager.raft.leader import Leader

__all__ = ["Chronicle"]

_log = logging.getLogger(__name__)


class Chronicle:
    """Compares the core with what it last saw of it."""

    def __init__(self, core: Raft) -> None:
        self._core = core
        self._seen = self._state()
        self._vote = core.vote

    def write(self) -> None:
        core = self._core
        if core.vote != self._vote:
            self._vote = core.vote
            if core.vote not in (0, core.raft_id):
                self._tell(f"votes for raft member {core.vote}")
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._tell(state[0])

    def _state(self) -> tuple[str, int]:
        core = self._core
        match core.role:
            case Leader():
                text = "won the election"
            case Candidate(pre=True):
                text = "asks who would vote for it"
            case Candidate():
                text = "stands for election"
            case _ if core.leader is None:
                text = "has no leader"
            case _:
                text = f"follows raft member {core.leader}"
        return text, core.term

    def _tell(self, text: str) -> None:
        core = self._core
        _log.info("raft member %d %s", core.raft_id, text, extra={"term": core.term, "last": core.log.last_index})
