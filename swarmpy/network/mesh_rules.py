"""The nftables table of the routing mesh, rendered from a view. Pure.

A published port costs one element of a map and one chain; a packet pays one lookup, whatever the number of services.
Only the first packet of a connection comes here: conntrack does the rest, which is why a connection that exists goes on
when its backend is withdrawn.
"""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from ipaddress import IPv4Address

from swarmpy.network import expressions as ex
from swarmpy.network.ruleset import Chain, Ruleset, VerdictMap, rule
from swarmpy.network.view import MeshView, Port

__all__ = ["backends_of", "published", "render"]

PublishedKey = tuple[str, int]


def published(view: MeshView) -> dict[PublishedKey, tuple[str, Port]]:
    """(protocol, published port) to service id and port. The allocator hands out a port once; were two services to
    claim one, the lower service id has it on every node alike."""
    ports: dict[PublishedKey, tuple[str, Port]] = {}
    for service_id in sorted(view.services):
        for port in view.services[service_id]:
            ports.setdefault((port.protocol, port.published), (service_id, port))
    return ports


def backends_of(view: MeshView) -> dict[str, list[IPv4Address]]:
    """Service id to the addresses of its tasks that this node can reach, in order."""
    addresses: dict[str, set[IPv4Address]] = {}
    for task in view.tasks.values():
        if task.node_id == view.node_id or task.node_id in view.peers:
            addresses.setdefault(task.service_id, set()).add(task.address)
    return {service_id: sorted(found) for service_id, found in addresses.items()}


def render(table: str, bridge: str, view: MeshView, blocked: Set[PublishedKey] = frozenset()) -> Ruleset | None:
    """The table as it must be; None when the view has no ingress network. `blocked` ports are left to the host."""
    if view.ingress is None:
        return None
    backends = backends_of(view)
    chains = _fixed_chains(bridge, str(view.ingress.address.ip))
    served: dict[tuple[str | int, ...], str] = {}
    refused: dict[tuple[str | int, ...], str] = {}
    for key, (service_id, port) in sorted(published(view).items()):
        if key in blocked:
            continue
        addresses = backends.get(service_id, [])
        if not addresses:
            refused[key] = "refuse"
            continue
        chain = f"{port.protocol}-{port.published}"
        chains[chain] = _service_chain(port, tuple(addresses))
        served[key] = chain
    types = ("inet_proto", "inet_service")
    return Ruleset(table, chains, {"published": VerdictMap(types, served), "refused": VerdictMap(types, refused)})


@lru_cache(maxsize=8192)
def _service_chain(port: Port, addresses: tuple[IPv4Address, ...]) -> Chain:
    """Remembered, because from one view to the next nearly all services are as they were."""
    return Chain((rule(ex.l4proto(port.protocol), ex.dnat([str(address) for address in addresses], port.target)),))


def _fixed_chains(bridge: str, own_address: str) -> dict[str, Chain]:
    to_service = rule(ex.TO_LOCAL_ADDRESS, ex.goto_map(ex.PROTOCOL_AND_PORT, "published"))
    return {
        # route_localnet on the bridge lets answers reach 127.0.0.1; nothing else on the bridge may speak to it.
        "guard": Chain((rule(ex.iifname(bridge), ex.daddr("127.0.0.0", 8), ex.DROP),), ex.RAW_PREROUTING),
        "arriving": Chain((to_service,), ex.NAT_PREROUTING),
        "local": Chain((to_service,), ex.NAT_OUTPUT),
        # The answer must come back through this node, which alone knows the client.
        "leaving": Chain(
            (rule(ex.oifname(bridge), ex.TRANSLATED, {"snat": {"addr": own_address}}),), ex.NAT_POSTROUTING
        ),
        "forward": Chain(
            (
                rule(ex.KNOWN_FLOW, ex.ACCEPT),
                rule(ex.iifname(bridge), ex.oifname(bridge), ex.ACCEPT),
                rule(ex.oifname(bridge), ex.TRANSLATED, ex.ACCEPT),
                rule(ex.oifname(bridge), ex.DROP),
                rule(ex.iifname(bridge), ex.DROP),
            ),
            ex.FORWARD,
        ),
        "input": Chain(
            (
                rule(ex.FROM_ORIGINATOR, ex.goto_map(ex.PROTOCOL_AND_PORT, "refused")),
                # The node's ingress address is for the mesh alone, not a way around the host's other firewalls.
                rule(ex.iifname(bridge), ex.FROM_ORIGINATOR, ex.DROP),
            ),
            ex.INPUT,
        ),
        "refuse": Chain(
            (
                rule(ex.l4proto("tcp"), {"reject": {"type": "tcp reset"}}),
                rule({"reject": {"type": "icmp", "expr": "port-unreachable"}}),
            )
        ),
    }
