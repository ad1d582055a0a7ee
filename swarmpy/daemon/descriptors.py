"""How many files and connections this process may have open, and how many of them may belong to whom.

Whoever reaches a port may connect to it. What is taken by connections must leave enough for the raft log, images and
containers, which fail when the process has no descriptor left (EMFILE, getrlimit(2)).
"""

from __future__ import annotations

import resource

__all__ = ["API_PLACES", "TCP_PLACES", "allow_all_descriptors", "places"]

API_PLACES = 4096, 8                # connections to the API: at most so many, and one of so many descriptors
TCP_PLACES = 1024, 16               # of them over TCP, where each takes three; the rest is left to who is on this host


def allow_all_descriptors() -> None:
    """Raise the soft limit to the hard one: 1024 is what select(2) can take, and not what a server needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def places(most: int, share: int) -> int:
    """How many connections of a kind there may be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, soft // share)
