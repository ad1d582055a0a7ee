"""The nftables table of the default bridge and of ports published on this host alone, rendered from records. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from swarmpy.network import expressions as ex
from swarmpy.network.endpoint import ANY_ADDRESS, EndpointRecord, HostPort
from swarmpy.network.ruleset import Chain, Ruleset, VerdictMap, rule

__all__ = ["render"]


def render(table: str, bridge: str, subnet: IPv4Network, records: Iterable[EndpointRecord]) -> Ruleset:
    """The table as it must be for the containers in `records`."""
    chains = _fixed_chains(bridge, subnet)
    everywhere: dict[tuple[str | int, ...], str] = {}
    on_address: dict[tuple[str | int, ...], str] = {}
    for record in records:
        endpoint = record.on("bridge")
        if endpoint is None:
            continue
        for port in record.ports:
            chain = _chain_name(port)
            chains[chain] = Chain((rule(ex.l4proto(port.protocol), ex.dnat([endpoint.ip], port.container_port)),))
            if port.host_ip == ANY_ADDRESS:
                everywhere[(port.protocol, port.host_port)] = chain
            else:
                on_address[(port.host_ip, port.protocol, port.host_port)] = chain
    maps = {
        "published": VerdictMap(("inet_proto", "inet_service"), everywhere),
        "published-on": VerdictMap(("ipv4_addr", "inet_proto", "inet_service"), on_address),
    }
    return Ruleset(table, chains, maps)


def _chain_name(port: HostPort) -> str:
    suffix = "" if port.host_ip == ANY_ADDRESS else "-" + port.host_ip.replace(".", "-")
    return f"{port.protocol}-{port.host_port}{suffix}"


def _fixed_chains(bridge: str, subnet: IPv4Network) -> dict[str, Chain]:
    network, length = str(subnet.network_address), subnet.prefixlen
    with_address = {"concat": [{"payload": {"protocol": "ip", "field": "daddr"}}, *ex.PROTOCOL_AND_PORT["concat"]]}
    to_container = (
        rule(ex.goto_map(with_address, "published-on")),
        rule(ex.TO_LOCAL_ADDRESS, ex.goto_map(ex.PROTOCOL_AND_PORT, "published")),
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
