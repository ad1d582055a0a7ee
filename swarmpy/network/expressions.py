"""The handful of nftables expressions that the rules are written in. Pure; libnftables-json(5)."""

from __future__ import annotations

from swarmpy.network.nftables import Command
from swarmpy.network.ruleset import Hook

__all__ = [
    "ACCEPT",
    "DROP",
    "FORWARD",
    "FROM_ORIGINATOR",
    "INPUT",
    "KNOWN_FLOW",
    "NAT_OUTPUT",
    "NAT_POSTROUTING",
    "NAT_PREROUTING",
    "PROTOCOL_AND_PORT",
    "RAW_PREROUTING",
    "TO_LOCAL_ADDRESS",
    "TRANSLATED",
    "daddr",
    "dnat",
    "goto_map",
    "iifname",
    "l4proto",
    "oifname",
    "saddr",
]

# Priorities of the standard hooks (nft(8), Chains): raw -300, dstnat -100, filter 0, srcnat 100.
RAW_PREROUTING = Hook("filter", "prerouting", -300)
NAT_PREROUTING = Hook("nat", "prerouting", -100)
NAT_OUTPUT = Hook("nat", "output", -100)
NAT_POSTROUTING = Hook("nat", "postrouting", 100)
FORWARD = Hook("filter", "forward", 0)
INPUT = Hook("filter", "input", 0)

ACCEPT: Command = {"accept": None}
DROP: Command = {"drop": None}

PROTOCOL_AND_PORT: Command = {
    "concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]
}


def _match(left: Command, right: object, op: str = "==") -> Command:
    return {"match": {"op": op, "left": left, "right": right}}


def iifname(name: str, op: str = "==") -> Command:
    return _match({"meta": {"key": "iifname"}}, name, op)


def oifname(name: str, op: str = "==") -> Command:
    return _match({"meta": {"key": "oifname"}}, name, op)


def l4proto(protocol: str) -> Command:
    return _match({"meta": {"key": "l4proto"}}, protocol)


def daddr(prefix: str, length: int, op: str = "==") -> Command:
    return _match(_address("daddr"), {"prefix": {"addr": prefix, "len": length}}, op)


def saddr(prefix: str, length: int, op: str = "==") -> Command:
    return _match(_address("saddr"), {"prefix": {"addr": prefix, "len": length}}, op)


def goto_map(key: Command, name: str) -> Command:
    """Go to the chain that map `name` holds for `key`; fall through when it holds none."""
    return {"vmap": {"key": key, "data": f"@{name}"}}


def dnat(addresses: list[str], port: int) -> Command:
    """Send the connection to `port` of one of `addresses`, each with the same probability."""
    if len(addresses) == 1:
        return {"dnat": {"addr": addresses[0], "port": port}}
    choice = {"numgen": {"mode": "random", "mod": len(addresses), "offset": 0}}
    table = {"set": [[index, address] for index, address in enumerate(addresses)]}
    return {"dnat": {"addr": {"map": {"key": choice, "data": table}}, "port": port}}


def _address(field: str) -> Command:
    return {"payload": {"protocol": "ip", "field": field}}


TO_LOCAL_ADDRESS = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
KNOWN_FLOW = _match({"ct": {"key": "state"}}, ["established", "related"], "in")
TRANSLATED = _match({"ct": {"key": "status"}}, "dnat", "in")
FROM_ORIGINATOR = _match({"ct": {"key": "direction"}}, "original")
