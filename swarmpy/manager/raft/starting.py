"""How a member begins: what it finds or founds on its disk. All of it blocks, and may run on any thread."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from swarmpy.errors import Conflict
from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.files import Files
from swarmpy.manager.raft.membership import Peer
from swarmpy.manager.raft.recovery import first_write, take_over
from swarmpy.manager.raft.storage import Identity, Storage
from swarmpy.manager.replicated_log import StateMachine

__all__ = ["Started", "create", "found", "reopen"]


@dataclass(frozen=True, slots=True)
class Started:
    """What a member goes on from. `storage` is its user's to close."""

    storage: Storage
    durable: Durable
    identity: Identity
    replace_state: Callable[[], None] | None = None    # what StateMachine.load made of the durable snapshot, if any


def found(directory: Path, keys: Sequence[bytes], files: Files, raft_id: int, peer: Peer) -> Started:
    """The first member of a new cluster. Raises Conflict when `directory` already holds a log."""
    identity = Identity(secrets.token_hex(16), raft_id, peer.node_id, peer.addr)
    with closing(create(directory, keys, files, identity).storage) as storage:
        storage.write([first_write(raft_id, peer)])
    return Started(*Storage.open(directory, keys, files), identity)


def create(directory: Path, keys: Sequence[bytes], files: Files, identity: Identity) -> Started:
    """An empty log. Raises Conflict when `directory` already holds one."""
    storage, durable = Storage.open(directory, keys, files)
    try:
        if storage.identity is not None:
            raise Conflict(f"{directory} already holds a raft log; this manager is part of a swarm")
        storage.set_identity(identity)
    except BaseException:
        storage.close()
        raise
    return Started(storage, durable, identity)


def reopen(
    directory: Path, keys: Sequence[bytes], files: Files, machine: StateMachine, alone_at: str | None
) -> Started:
    """What is there, with its snapshot loaded. With `alone_at`, an address, it becomes a cluster of this member alone.

    Raises Corrupt when it is damaged, Conflict when there is none.
    """
    storage, durable = Storage.open(directory, keys, files)
    try:
        identity = storage.identity
        if identity is None:
            raise Conflict(f"{directory} holds no raft log; start a new swarm or join one")
        if alone_at is not None:
            identity = replace(identity, cluster_id=secrets.token_hex(16), addr=alone_at)
            storage.write([take_over(durable, identity.raft_id, Peer(identity.node_id, identity.addr))])
            storage.set_identity(identity)
            storage.close()
            storage, durable = Storage.open(directory, keys, files)
        snapshot = durable.snapshot
        replace_state = machine.load(snapshot.index, snapshot.data) if snapshot is not None else None
    except BaseException:
        storage.close()
        raise
    return Started(storage, durable, identity, replace_state)
