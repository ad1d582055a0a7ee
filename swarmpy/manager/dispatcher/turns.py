"""Whose turn it is to be told of changed assignments.

A message costs the leader and the node much the same, however many tasks it tells of. So while much changes everywhere,
sessions take turns, each first come first served: what changes for a node until its turn shares one message. While
little changes nobody waits.
"""

from __future__ import annotations

from itertools import islice

from swarmpy.manager.dispatcher.session import Session

__all__ = ["TURNS", "TURN_S", "Turns"]

TURNS = 10                       # sessions that have a turn at the same time
TURN_S = 0.004                   # of each, before others have theirs: 250 messages a second, and as many reports


class Turns:
    """The queue. Pure; the shell gives turns and keeps the time."""

    def __init__(self) -> None:
        self._queue: dict[Session, None] = {}

    def ask(self, session: Session) -> None:
        """Something changed for the session's node. Asking again changes nothing."""
        self._queue[session] = None

    def leave(self, session: Session) -> None:
        """The session is over."""
        self._queue.pop(session, None)

    def give(self) -> int:
        """Give the next sessions their turns. Returns how many had one."""
        sessions = list(islice(self._queue, TURNS))
        for session in sessions:
            del self._queue[session]
            session.assign()
        return len(sessions)

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return len(self._queue)
