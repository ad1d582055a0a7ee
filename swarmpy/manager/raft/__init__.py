"""The replicated log of the managers: Raft, from the deterministic core to the disk and the wire.

    messages, membership, quorum, entries, progress     values and small pieces
    role, follower, candidate, leader, core             the state machine: no clock, socket, disk or randomness
    codec, seal, records, snapshot_file, files, wal, storage, disk     bytes, and where they are durable
    wire, handshake, listener, wires                    our own TLS connections, for speed
    service, link                                       gRPC streams, which admit them and stand in for them
    driver                                              the member's thread: clock, disk and wires for the core
    application, peers, changes, log                    the event loop's side, and RaftLog, a ReplicatedLog
    starting, recovery                                  founding, joining, reopening, and going on alone
"""

from swarmpy.manager.raft.files import DISK, Files
from swarmpy.manager.raft.log import Network, RaftLog
from swarmpy.manager.raft.options import Ended, Options
from swarmpy.manager.raft.service import RaftService
from swarmpy.manager.raft.storage import Corrupt

__all__ = ["DISK", "Corrupt", "Ended", "Files", "Network", "Options", "RaftLog", "RaftService"]
