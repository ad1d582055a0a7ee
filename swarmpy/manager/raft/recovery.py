"""Going on alone after the majority is lost for good (`docker swarm init --force-new-cluster`).

Every entry on this member's disk is kept and declared committed: what a majority had acknowledged is among them if this
member had it at all. Then changes are appended that leave this member as the only voter. It gets a new cluster id, so
that members of the old cluster, should they come back, can neither reach it nor be reached.
"""

from __future__ import annotations

from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.membership import Change, ChangeKind, Membership, Peer
from swarmpy.manager.raft.messages import Entry, EntryKind, HardState
from swarmpy.manager.raft.storage import Write

__all__ = ["first_write", "take_over"]


def first_write(raft_id: int, peer: Peer) -> Write:
    """The log of a new cluster of one: its first entries say so, and every later joiner replays them."""
    changes = (Change(ChangeKind.ADD_LEARNER, raft_id, peer), Change(ChangeKind.PROMOTE, raft_id))
    entries = _as_entries(changes, index=0, term=1)
    return Write(HardState(term=1, vote=raft_id, commit=len(entries)), entries)


def take_over(durable: Durable, raft_id: int, peer: Peer) -> Write:
    """What to write so that the stored log is that of a cluster of this member alone."""
    membership = Membership.decode(durable.snapshot.membership) if durable.snapshot else Membership()
    covered = durable.snapshot.index if durable.snapshot else 0
    for entry in durable.entries:
        if entry.kind is EntryKind.CONFIG and entry.index > covered:
            membership = membership.after(Change.decode(entry.data))
    last, last_term = durable.offset, durable.offset_term
    if durable.entries:
        last, last_term = durable.entries[-1].index, durable.entries[-1].term
    term = max(durable.hard_state.term, last_term) + 1
    entries = _as_entries(_changes_to_alone(membership, raft_id, peer), index=last, term=term)
    return Write(HardState(term, raft_id, last + len(entries)), entries)


def _changes_to_alone(membership: Membership, raft_id: int, peer: Peer) -> tuple[Change, ...]:
    changes = []
    if raft_id not in membership:
        changes.append(Change(ChangeKind.ADD_LEARNER, raft_id, peer))
    else:
        changes.append(Change(ChangeKind.MOVE, raft_id, peer))
    if raft_id not in membership.voters:
        changes.append(Change(ChangeKind.PROMOTE, raft_id))
    others = sorted((membership.voters | membership.learners) - {raft_id})
    return (*changes, *(Change(ChangeKind.REMOVE, other) for other in others))


def _as_entries(changes: tuple[Change, ...], *, index: int, term: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(position, term, EntryKind.CONFIG, change.encode()) for position, change in enumerate(changes, index + 1)
    )
