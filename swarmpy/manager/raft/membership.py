"""Who is in the cluster, and how that changes: one member at a time.

Owns    Membership values and the Change that leads from one to the next; their encoding in entries and snapshots.
Laws    A change takes effect when it is committed, and the next may be proposed only then, so any two majorities
        that can be in force at the same time overlap. A removed raft id never comes back.
Source  Thesis, 4.1 to 4.3; "bug in single-server membership changes" (raft-dev, 2015): the leader first commits an
        entry of its own term.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = ["Change", "ChangeKind", "Membership", "Peer"]


class ChangeKind(enum.Enum):
    ADD_LEARNER = "add-learner"
    PROMOTE = "promote"
    REMOVE = "remove"
    MOVE = "move"    # a new address, or node id, for a present member


@dataclass(frozen=True, slots=True)
class Peer:
    """What the transport needs to know of a member."""

    node_id: str
    addr: str    # host:port


@dataclass(frozen=True, slots=True)
class Change:
    kind: ChangeKind
    raft_id: int
    peer: Peer | None = None    # with ADD_LEARNER and MOVE

    def encode(self) -> bytes:
        fields: dict[str, object] = {"kind": self.kind.value, "raft_id": self.raft_id}
        if self.peer is not None:
            fields |= {"node_id": self.peer.node_id, "addr": self.peer.addr}
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Change:
        fields = json.loads(data)
        peer = Peer(fields["node_id"], fields["addr"]) if "addr" in fields else None
        return cls(ChangeKind(fields["kind"]), fields["raft_id"], peer)


@dataclass(frozen=True, slots=True)
class Membership:
    """The configuration in force. Voters and learners are disjoint, and `peers` describes exactly those."""

    voters: frozenset[int] = frozenset()
    learners: frozenset[int] = frozenset()
    peers: Mapping[int, Peer] = field(default_factory=lambda: MappingProxyType({}))
    removed: frozenset[int] = frozenset()

    def __contains__(self, raft_id: int) -> bool:
        return raft_id in self.voters or raft_id in self.learners

    @property
    def majority(self) -> int:
        return len(self.voters) // 2 + 1

    def objection(self, change: Change) -> str | None:
        """Why the change makes no sense here, or None."""
        member = change.raft_id
        match change.kind:
            case ChangeKind.ADD_LEARNER if member in self.removed:
                return f"raft member {member} was removed; join again under a new raft id"
            case ChangeKind.ADD_LEARNER if member in self:
                return f"raft member {member} is already in the configuration"
            case ChangeKind.PROMOTE if member not in self.learners:
                return f"raft member {member} is not a learner"
            case (ChangeKind.REMOVE | ChangeKind.MOVE) if member not in self:
                return f"raft member {member} is not in the configuration"
            case ChangeKind.REMOVE if self.voters == {member}:
                return f"raft member {member} is the last voter"
        return None

    def after(self, change: Change) -> Membership:
        """The configuration once `change` is committed. A change that makes no sense changes nothing."""
        if self.objection(change) is not None:
            return self
        member = change.raft_id
        peers = dict(self.peers)
        if change.peer is not None:
            peers[member] = change.peer
        match change.kind:
            case ChangeKind.ADD_LEARNER:
                changed = replace(self, learners=self.learners | {member})
            case ChangeKind.PROMOTE:
                changed = replace(self, learners=self.learners - {member}, voters=self.voters | {member})
            case ChangeKind.REMOVE:
                peers.pop(member, None)
                changed = replace(
                    self,
                    voters=self.voters - {member},
                    learners=self.learners - {member},
                    removed=self.removed | {member},
                )
            case ChangeKind.MOVE:
                changed = self
        return replace(changed, peers=MappingProxyType(peers))

    def encode(self) -> bytes:
        return json.dumps(
            {
                "voters": sorted(self.voters),
                "learners": sorted(self.learners),
                "removed": sorted(self.removed),
                "peers": {str(member): [peer.node_id, peer.addr] for member, peer in sorted(self.peers.items())},
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        if not data:
            return cls()
        fields = json.loads(data)
        return cls(
            voters=frozenset(fields["voters"]),
            learners=frozenset(fields["learners"]),
            peers=MappingProxyType({int(member): Peer(*peer) for member, peer in fields["peers"].items()}),
            removed=frozenset(fields["removed"]),
        )
