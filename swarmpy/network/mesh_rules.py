"""The nftables table of the routing mesh, rendered from routes. Pure.

    published port ──► set `of-3`: ports of services with three backends ──► chain `to-0`, `to-1` or `to-2`, by chance
                       chain `to-1`: map `to-1` knows the second backend of each port, map `port` the port it listens on

The chains depend on how many backends services have, never on how many services there are. A change of one service
therefore writes a few elements and no rule, unless no service had as many backends before. A packet pays four lookups,
whatever is published. Only the first packet of a connection comes here: conntrack does the rest, which is why a
connection that exists goes on when its backend is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address

from swarmpy.network import expressions as ex
from swarmpy.network.ruleset import Chain, Key, NamedSet, Ruleset, Value, rule
from swarmpy.network.view import IngressNetwork

__all__ = ["PublishedKey", "Route", "render", "reseat"]

PublishedKey = tuple[str, int]  # protocol, published port

PUBLISHED = ("inet_proto", "inet_service")


@dataclass(frozen=True, slots=True)
class Route:
    """Where one published port leads: to `target` on one of `backends`, by chance. Without backends it is refused."""

    target: int
    backends: tuple[IPv4Address, ...] = ()


def reseat(seated: tuple[IPv4Address, ...], wanted: AbstractSet[IPv4Address]) -> tuple[IPv4Address, ...]:
    """`wanted` in an order that keeps as many backends as can be where they sat: each move is an element written."""
    newcomers = sorted(wanted - set(seated))
    seats: list[IPv4Address | None] = [address if address in wanted else None for address in seated]
    while None in seats:
        if newcomers:
            seats[seats.index(None)] = newcomers.pop(0)
        elif (last := seats.pop()) is not None:
            newcomers.append(last)
    return tuple(seat for seat in (*seats, *newcomers) if seat is not None)


def render(
    table: str, bridge: str, ingress: IngressNetwork, sizes: Iterable[int], routes: Mapping[PublishedKey, Route]
) -> Ruleset:
    """The table as it must be for `routes`, or the part of it that concerns them.

    `sizes` are all the numbers of backends that ports of this node have, other routes' too.
    """
    chains, kinds = _frame(bridge, str(ingress.address.ip), ingress.udp_port, tuple(sorted(set(sizes) - {0})))
    elements: dict[str, dict[Key, Value]] = {name: {} for name in kinds}
    for key, route in routes.items():
        if not route.backends:
            elements["refused"][key] = None
            continue
        elements["port"][key] = route.target
        elements[f"of-{len(route.backends)}"][key] = None
        for seat, address in enumerate(route.backends):
            elements[f"to-{seat}"][key] = str(address)
    sets = {name: NamedSet(PUBLISHED, data_type, elements[name]) for name, data_type in kinds.items()}
    return Ruleset(table, chains, sets)


@lru_cache(maxsize=64)
def _frame(
    bridge: str, own_address: str, vxlan_port: int, sizes: tuple[int, ...]
) -> tuple[dict[str, Chain], dict[str, str]]:
    """All chains; all sets with the type of their data. Remembered, for it seldom differs from one view to the next."""
    seats = range(max(sizes, default=0))
    to_backend = {f"to-{seat}": Chain((rule(ex.dnat(ex.PROTOCOL_AND_PORT, f"to-{seat}", "port")),)) for seat in seats}
    by_chance = (
        rule(ex.among(ex.PROTOCOL_AND_PORT, f"of-{size}"), ex.goto_one_of([f"to-{seat}" for seat in range(size)]))
        for size in sizes
    )
    chains = {**to_backend, "choose": Chain(tuple(by_chance)), **_fixed_chains(bridge, own_address, vxlan_port)}
    kinds = {"port": "inet_service", "refused": "", **{f"of-{size}": "" for size in sizes}}
    return chains, kinds | dict.fromkeys(to_backend, "ipv4_addr")


def _fixed_chains(bridge: str, own_address: str, vxlan_port: int) -> dict[str, Chain]:
    to_service = rule(ex.TO_LOCAL_ADDRESS, ex.goto("choose"))
    vxlan = (ex.l4proto("udp"), ex.dport(vxlan_port))
    return {
        "guard": Chain(
            (
                # route_localnet on the bridge lets answers reach 127.0.0.1; nothing else on the bridge may speak to it.
                rule(ex.iifname(bridge), ex.daddr("127.0.0.0", 8), ex.DROP),
                # The outer packets of each inner flow have a source port of their own and never an answer: conntrack
                # would keep an entry for each and could say of none that it is established.
                rule(*vxlan, ex.TO_LOCAL_ADDRESS, ex.UNTRACKED),
            ),
            ex.RAW_PREROUTING,
        ),
        "tunnel": Chain((rule(*vxlan, ex.UNTRACKED),), ex.RAW_OUTPUT),
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
                rule(ex.FROM_ORIGINATOR, ex.among(ex.PROTOCOL_AND_PORT, "refused"), ex.goto("refuse")),
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
