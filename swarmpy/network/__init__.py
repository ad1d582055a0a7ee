"""Networking of one host: bridges, veth pairs, addresses, published ports, and the routing mesh of a swarm.

Everything here acts on the network namespace of the process, whichever that is: never on the machine's first one by
name. What the kernel holds is derived state; it can be rebuilt from what this package is told at any moment.

Design note: docs/design/network.md.
"""

from swarmpy.network.endpoint import EndpointInfo, HostPort
from swarmpy.network.host import HostNetwork
from swarmpy.network.mesh import Mesh
from swarmpy.network.tcp_sockets import TcpSocket, tcp_sockets
from swarmpy.network.view import Backend, IngressNetwork, MeshView, Peer, Port, ViewChange

__all__ = [
    "Backend",
    "EndpointInfo",
    "HostNetwork",
    "HostPort",
    "IngressNetwork",
    "Mesh",
    "MeshView",
    "Peer",
    "Port",
    "TcpSocket",
    "ViewChange",
    "tcp_sockets",
]
