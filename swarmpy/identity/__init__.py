"""Who a node is: join tokens, certificates, and the mutual TLS between nodes."""

from swarmpy.identity.certificates import Issuer, KeyPair, create_root, new_key
from swarmpy.identity.join_credential import JoinRoots
from swarmpy.identity.node_identity import Issued, NodeIdentity
from swarmpy.identity.peer import Peer, PeerGuard, peer_of
from swarmpy.identity.token import JoinToken

__all__ = [
    "Issued",
    "Issuer",
    "JoinRoots",
    "JoinToken",
    "KeyPair",
    "NodeIdentity",
    "Peer",
    "PeerGuard",
    "create_root",
    "new_key",
    "peer_of",
]
