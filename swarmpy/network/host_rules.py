"""The nftables table of the default bridge and of ports published on this host alone, rendered from records. Pure.

Four maps hold all published ports: which container, and which port of it; for all addresses of the host and for single
ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from ipaddress import IPv4Network

from swarmpy.network import expressions as ex
from swarmpy.network.endpoint import ANY_ADDRESS, EndpointRecord
from swarmpy.network.ruleset import Chain, Key, NamedSet, Ruleset, Value, rule

__all__ = ["render"]

ANYWHERE = ("inet_proto", "inet_service")
ON_ADDRESS = ("ipv4_addr", *ANYWHERE)


def render(table: str, bridge: str, subnet: IPv4Network, records: Iterable[EndpointRecord]) -> Ruleset:
    """The table as it must be for the containers in `records`."""
    container: dict[Key, Value] = {}
    port_there: dict[Key, Value] = {}
    container_on: dict[Key, Value] = {}
    port_there_on: dict[Key, Value] = {}
    for record in records:
        endpoint = record.on("bridge")
        if endpoint is None:
            continue
        for port in record.ports:
            if port.host_ip == ANY_ADDRESS:
                key: Key = (port.protocol, port.host_port)
                container[key], port_there[key] = endpoint.ip, port.container_port
            else:
                key = (port.host_ip, port.protocol, port.host_port)
                container_on[key], port_there_on[key] = endpoint.ip, port.container_port
    sets = {
        "container": NamedSet(ANYWHERE, "ipv4_addr", container),
        "port": NamedSet(ANYWHERE, "inet_service", port_there),
        "container-on": NamedSet(ON_ADDRESS, "ipv4_addr", container_on),
        "port-on": NamedSet(ON_ADDRESS, "inet_service", port_there_on),
    }
    return Ruleset(table, _chains(bridge, subnet), sets)


@cache
def _chains(bridge: str, subnet: IPv4Network) -> Mapping[str, Chain]:
    """Whatever containers there are; asked for whenever one comes or goes."""
    network, length = str(subnet.network_address), subnet.prefixlen
    to_container = (
        rule(ex.dnat(ex.ADDRESS_PROTOCOL_AND_PORT, "container-on", "port-on")),
        rule(ex.TO_LOCAL_ADDRESS, ex.dnat(ex.PROTOCOL_AND_PORT, "container", "port")),
    )
    masquerade = {"masquerade": None}
    return {
        # route_localnet on the bridge lets answers reach 127.0.0.1; nothing else on the bridge may speak to it.
        "guard": Chain((rule(ex.iifname(bridge), ex.daddr("127.0.0.0", 8), ex.DROP),), ex.RAW_PREROUTING),
        "arriving": Chain(to_container, ex.NAT_PREROUTING),
        "local": Chain(to_container, ex.NAT_OUTPUT),
        "leaving": Chain(
            (
                rule(ex.saddr(network, length), ex.oifname(bridge, "!="), masquerade),
                # A container that calls a published port of its own bridge must see the answer come from there.
                rule(ex.saddr(network, length), ex.oifname(bridge), ex.TRANSLATED, masquerade),
                rule(ex.saddr("127.0.0.0", 8), ex.oifname(bridge), masquerade),
            ),
            ex.NAT_POSTROUTING,
        ),
        "forward": Chain(
            (
                rule(ex.KNOWN_FLOW, ex.ACCEPT),
                rule(ex.iifname(bridge), ex.oifname(bridge), ex.ACCEPT),
                rule(ex.oifname(bridge), ex.TRANSLATED, ex.ACCEPT),
                # What is not published cannot be reached from outside, routed or not.
                rule(ex.oifname(bridge), ex.DROP),
            ),
            ex.FORWARD,
        ),
    }
