"""What a node is told about the routing mesh: the whole desired state, as values.

The worker builds a `MeshView` from the dispatcher's messages; `Mesh.apply` makes the kernel agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["NO_VIEW", "Backend", "IngressNetwork", "MeshView", "Peer", "Port", "ViewChange", "checked_protocol"]

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}


def checked_protocol(protocol: str) -> str:
    """Return `protocol` when ports of it can be published; NotSupported for sctp, InvalidArgument for the rest."""
    if protocol in PROTOCOL_NUMBERS:
        return protocol
    if protocol == "sctp":
        raise NotSupported("publishing ports with protocol sctp is not supported yet; use tcp or udp")
    raise InvalidArgument(f"port protocol {protocol!r} is unknown; use tcp or udp")


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """One published port of a service: every node listens on `published`, backends on `target`."""

    protocol: str
    published: int
    target: int

    def __post_init__(self) -> None:
        checked_protocol(self.protocol)
        for name, value in (("published", self.published), ("target", self.target)):
            if not 1 <= value <= 65535:
                raise InvalidArgument(f"{name} port {value} is outside 1-65535")


@dataclass(frozen=True, slots=True)
class IngressNetwork:
    """The overlay that carries mesh traffic, as this node takes part in it.

    `address` is the node's own address with the subnet's prefix length, `vtep` the address other nodes send VXLAN to
    and `udp_port` where (RFC 7348; 4789 unless the swarm was made with another data path port).
    """

    subnet: IPv4Network
    vni: int
    address: IPv4Interface
    vtep: IPv4Address
    udp_port: int = 4789

    def __post_init__(self) -> None:
        if self.address.ip not in self.subnet:
            raise InvalidArgument(f"ingress address {self.address} lies outside the ingress subnet {self.subnet}")
        if not 0 < self.vni < 1 << 24:
            raise InvalidArgument(f"VXLAN network identifier {self.vni} is outside 1-16777215")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node of the mesh: where its VXLAN traffic goes and its own address in the ingress network."""

    vtep: IPv4Address
    ingress: IPv4Address


@dataclass(frozen=True, slots=True)
class Backend:
    """A running task that may receive new connections."""

    service_id: str
    node_id: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class ViewChange:
    """From the view that `mark` belongs to, to the one that carries this: new values by key, None for what is gone."""

    mark: object
    peers: Mapping[str, Peer | None]
    services: Mapping[str, tuple[Port, ...] | None]
    tasks: Mapping[str, Backend | None]


@dataclass(frozen=True, slots=True)
class MeshView:
    """Everything the mesh of one node must do. Keys: `peers` node ids, `services` service ids, `tasks` task ids.

    `node_id` is this node; it may or may not be among `peers`. A task on a node that is neither this one nor a peer
    cannot be reached and gets no connections.

    `change` may say what is different from an earlier view, whose `mark` it names. To who has that one it is enough;
    the mappings, which may be large and newer by now, are then not looked at.
    """

    node_id: str
    ingress: IngressNetwork | None
    peers: Mapping[str, Peer] = field(default_factory=dict)
    services: Mapping[str, tuple[Port, ...]] = field(default_factory=dict)
    tasks: Mapping[str, Backend] = field(default_factory=dict)
    change: ViewChange | None = field(default=None, compare=False, repr=False)
    mark: object = field(default_factory=object, compare=False, repr=False)


NO_VIEW = MeshView(node_id="", ingress=None)
