"""Which roots the nodes of a swarm are to trust, as the store says. Pure."""

from __future__ import annotations

from swarmpy.rpc.types_pb2 import RootCA

__all__ = ["trusted_roots"]


def trusted_roots(root_ca: RootCA) -> str:
    """PEM, the root that issues first. Two while one takes the other's place (docs/design/identity.md)."""
    if not root_ca.HasField("rotation"):
        return root_ca.cert_pem
    present, coming = root_ca.cert_pem, root_ca.rotation.cert_pem
    return coming + present if root_ca.rotation.issues else present + coming
