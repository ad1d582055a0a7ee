"""The swarm's certificate authority: its root, its join tokens, and what it issues to whom."""

from swarmpy.manager.ca.authority import CertificateAuthority, granted_role
from swarmpy.manager.ca.root import create_root_ca, issuer_of, join_roots_of, new_join_token, node_lifetime_ns
from swarmpy.manager.ca.rotation import RootRotator, begin_rotation

__all__ = [
    "CertificateAuthority",
    "RootRotator",
    "begin_rotation",
    "create_root_ca",
    "granted_role",
    "issuer_of",
    "join_roots_of",
    "new_join_token",
    "node_lifetime_ns",
]
