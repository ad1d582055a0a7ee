"""Who a node is: join tokens, certificates, and the mutual TLS between nodes."""

from swarmpy.identity.certificates import Issuer, KeyPair, create_root, new_key
from swarmpy.identity.data_keys import DataKeys, Lock, Locked
from swarmpy.identity.join_credential import JoinRoots
from swarmpy.identity.node_identity import Issued, NodeIdentity, stored_node_id
from swarmpy.identity.peer import Peer, PeerGuard, peer_of
from swarmpy.identity.token import JoinToken
from swarmpy.identity.unlock_key import UnlockKey, new_unlock_key

__all__ = [
    "DataKeys",
    "Issued",
    "Issuer",
    "JoinRoots",
    "JoinToken",
    "KeyPair",
    "Lock",
    "Locked",
    "NodeIdentity",
    "Peer",
    "PeerGuard",
    "UnlockKey",
    "create_root",
    "new_key",
    "new_unlock_key",
    "peer_of",
    "stored_node_id",
]
