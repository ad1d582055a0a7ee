"""The replicated log of the managers: Raft, from the deterministic core to the disk and the wire.

    messages, membership, quorum, entries, progress     values and small pieces
    role, follower, candidate, leader, core             the state machine: no clock, socket, disk or randomness
    codec, seal, storage, disk                          bytes, and where they are durable
    transport                                           gRPC streams
    recovery                                            a new cluster, and going on alone
    driver                                              RaftLog, which the rest of swarmpy sees as a ReplicatedLog
"""

from swarmpy.manager.raft.driver import Ended, Network, Options, RaftLog
from swarmpy.manager.raft.storage import Corrupt
from swarmpy.manager.raft.transport import CHANNEL_OPTIONS, RaftService

__all__ = ["CHANNEL_OPTIONS", "Corrupt", "Ended", "Network", "Options", "RaftLog", "RaftService"]
