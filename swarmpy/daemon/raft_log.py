"""The replicated log of a manager on this host: Raft, placed under `<data>/swarm`, sealed with the node's data keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from swarmpy.daemon.parts import LogStart, OpenLog
from swarmpy.daemon.swarm_state import SwarmState
from swarmpy.errors import Internal
from swarmpy.identity import DataKeys, NodeIdentity, peer_of
from swarmpy.identity.data_keys import KEYS_FILE
from swarmpy.identity.durable_file import remove_durably
from swarmpy.manager.raft import DISK, Ended, Files, Network, Options, RaftLog, RaftService
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import RaftConfig

__all__ = ["adopt_raft_key", "open_raft"]

RAFT_KEY_FILE = "raft.key"          # of an older swarmpy, beside the log's directory
WIRE_PORT = 7946                    # open between the nodes of a swarm, says Docker, and unused by us


async def open_raft(
    store: Store,
    identity: NodeIdentity,
    state: SwarmState,
    directory: Path,
    start: LogStart,
    on_end: Callable[[str, bool], None],
    files: Files = DISK,
) -> OpenLog:
    """See `Parts.open_log`. Raises Corrupt when what is on the disk is damaged, and Internal when it is gone."""
    service = RaftService(identity, _managers_only)
    network = Network(service, identity, state.listen_addr.rpartition(":")[0].strip("[]"), WIRE_PORT)
    raft_id, node_id, addr = state.raft_id, identity.node_id, state.advertise_addr
    place = directory, identity.data_keys, store, network
    if start is LogStart.FOUND:
        log = await RaftLog.bootstrap(*place, raft_id=raft_id, node_id=node_id, addr=addr, files=files)
    elif start is LogStart.ALONE:
        log = await RaftLog.open(*place, force_new_cluster=addr, files=files)
    elif await asyncio.to_thread(_holds_a_log, directory):
        log = await RaftLog.open(*place, files=files)
    elif state.voter:
        raise Internal(
            f"the raft log in {directory} is gone, and with it what this manager has promised the others. Demote it on "
            "another manager (docker node demote), and promote it again"
        )
    else:
        log = await RaftLog.join(*place, raft_id=raft_id, node_id=node_id, addr=addr, files=files)
    log.ended.add_done_callback(lambda ended: _tell(ended, on_end))
    return OpenLog(log, service.register, lambda config: _configure(log, config), log.take_keys)


def adopt_raft_key(swarm_dir: Path, certificates: Path) -> None:
    """The key that an older swarmpy had for the log alone becomes the node's data key. Blocks."""
    old = swarm_dir / RAFT_KEY_FILE
    if old.exists():
        if not (certificates / KEYS_FILE).exists():
            DataKeys.adopt(certificates, (old.read_bytes(),))
        remove_durably(old)


def _configure(log: RaftLog, config: RaftConfig) -> None:
    defaults = Options()
    log.set_snapshots(
        config.snapshot_interval or defaults.snapshot_interval,
        config.log_entries_for_slow_followers or defaults.log_entries_for_slow_followers,
    )


def _managers_only(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    return peer_of(context).require_manager().node_id


def _tell(ended: asyncio.Future[Ended], on_end: Callable[[str, bool], None]) -> None:
    if not ended.cancelled():
        on_end(str(ended.result()), ended.result().removed)


def _holds_a_log(directory: Path) -> bool:
    """Or more than a start that was cut off left there."""
    return directory.exists() and any(file.suffix != ".new" and file.name != "lock" for file in directory.iterdir())
