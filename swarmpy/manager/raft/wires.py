"""The wires of one member, polled together, and the bell that wakes the thread that polls them.

Owns    at most one Outgoing and one Incoming wire for each other member; a new one replaces the old.
Laws    All but `ring` is for the member's own thread.
Source  epoll(7); eventfd(2). The bell is edge-triggered: each write to it is an event, so nobody need ever read it.
"""

from __future__ import annotations

import os
import select

from swarmpy.manager.raft.wire import Broken, Incoming, Outgoing

__all__ = ["Wires"]


class Wires:
    def __init__(self) -> None:
        self._broken: list[int] = []                           # members
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        self._outgoing: dict[int, Outgoing] = {}               # by member
        self._incoming: dict[int, Incoming] = {}               # by member
        self._ends: dict[int, Outgoing | Incoming] = {}        # by descriptor
        self._unread: list[Incoming] = []                      # TLS holds more of theirs, which the poll cannot know

    def ring(self) -> None:
        """Have `wait` return. On any thread."""
        os.eventfd_write(self._bell, 1)

    def add(self, wire: Outgoing | Incoming) -> None:
        """Take over a wire, in place of the one of its kind with the same member."""
        if isinstance(wire, Outgoing):
            self.drop_outgoing(wire.member)
            self._outgoing[wire.member] = wire
        else:
            self.drop_incoming(wire.member)
            self._incoming[wire.member] = wire
        self._ends[wire.socket.fileno()] = wire
        self._poll.register(wire.socket.fileno(), select.EPOLLIN)

    def drop_outgoing(self, member: int) -> None:
        self._close(self._outgoing.pop(member, None))

    def drop_incoming(self, member: int) -> None:
        self._close(self._incoming.pop(member, None))

    def _close(self, wire: Outgoing | Incoming | None) -> None:
        if wire is not None:
            self._poll.unregister(wire.socket.fileno())
            del self._ends[wire.socket.fileno()]
            if wire in self._unread:
                self._unread.remove(wire)
            wire.close()

    def can_reach(self, member: int) -> bool:
        """Whether there is a wire to `member`."""
        return member in self._outgoing

    def send(self, member: int, message: bytes) -> bool:
        """Send over the wire to `member`. Returns whether it was taken: not when too much waits, or the wire broke."""
        wire = self._outgoing[member]
        waited = wire.waiting
        try:
            taken = wire.send(message)
        except Broken:
            self._broke(wire)
            return False
        if wire.waiting and not waited:
            self._poll.modify(wire.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return taken

    def wait(self, timeout_s: float) -> list[tuple[int, list[bytes]]]:
        """Wait until something happens, at most so long. Returns what members sent."""
        received = []
        unread, self._unread = self._unread, []
        for descriptor, events in self._poll.poll(0 if unread else timeout_s):
            wire = self._ends.get(descriptor)
            if isinstance(wire, Incoming):
                if wire not in unread:
                    unread.append(wire)
            elif wire is not None:
                self._serve(wire, events)
        for wire in unread:
            received += self._receive(wire)
        return received

    def _receive(self, wire: Incoming) -> list[tuple[int, list[bytes]]]:
        messages = wire.receive()
        if wire.ended:
            self.drop_incoming(wire.member)
        elif wire.pending:
            self._unread.append(wire)
        return [(wire.member, messages)] if messages else []

    def _serve(self, wire: Outgoing, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                wire.flush()
                if not wire.waiting:
                    self._poll.modify(wire.socket.fileno(), select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                wire.check()
        except Broken:
            self._broke(wire)

    def _broke(self, wire: Outgoing) -> None:
        self.drop_outgoing(wire.member)
        self._broken.append(wire.member)

    def take_broken(self) -> list[int]:
        """Members whose outgoing wire broke since the last call."""
        broken, self._broken = self._broken, []
        return broken

    def drop_all(self) -> None:
        for wire in list(self._ends.values()):
            self._close(wire)

    def close(self) -> None:
        """Nobody rings any more."""
        self._poll.close()
        os.close(self._bell)
