"""The handful of nftables expressions that the rules are written in. Pure; libnftables-json(5)."""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.network.nftables import Command
from swarmpy.network.ruleset import Hook

__all__ = [
    "ACCEPT",
    "ADDRESS_PROTOCOL_AND_PORT",
    "DROP",
    "FORWARD",
    "FROM_ORIGINATOR",
    "INPUT",
    "KNOWN_FLOW",
    "NAT_OUTPUT",
    "NAT_POSTROUTING",
    "NAT_PREROUTING",
    "PROTOCOL_AND_PORT",
    "RAW_OUTPUT",
    "RAW_PREROUTING",
    "TO_LOCAL_ADDRESS",
    "TRANSLATED",
    "UNTRACKED",
    "among",
    "daddr",
    "dnat",
    "dport",
    "goto",
    "goto_one_of",
    "iifname",
    "l4proto",
    "oifname",
    "saddr",
]

# Priorities of the standard hooks (nft(8), Chains): raw -300, dstnat -100, filter 0, srcnat 100.
RAW_PREROUTING = Hook("filter", "prerouting", -300)
RAW_OUTPUT = Hook("filter", "output", -300)
NAT_PREROUTING = Hook("nat", "prerouting", -100)
NAT_OUTPUT = Hook("nat", "output", -100)
NAT_POSTROUTING = Hook("nat", "postrouting", 100)
FORWARD = Hook("filter", "forward", 0)
INPUT = Hook("filter", "input", 0)

ACCEPT: Command = {"accept": None}
DROP: Command = {"drop": None}
UNTRACKED: Command = {"notrack": None}

PROTOCOL_AND_PORT: Command = {
    "concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]
}

ADDRESS_PROTOCOL_AND_PORT: Command = {
    "concat": [{"payload": {"protocol": "ip", "field": "daddr"}}, *PROTOCOL_AND_PORT["concat"]]
}


def _match(left: Command, right: object, op: str = "==") -> Command:
    return {"match": {"op": op, "left": left, "right": right}}


def iifname(name: str, op: str = "==") -> Command:
    return _match({"meta": {"key": "iifname"}}, name, op)


def oifname(name: str, op: str = "==") -> Command:
    return _match({"meta": {"key": "oifname"}}, name, op)


def l4proto(protocol: str) -> Command:
    return _match({"meta": {"key": "l4proto"}}, protocol)


def dport(port: int) -> Command:
    return _match({"payload": {"protocol": "th", "field": "dport"}}, port)


def daddr(prefix: str, length: int, op: str = "==") -> Command:
    return _match(_address("daddr"), {"prefix": {"addr": prefix, "len": length}}, op)


def saddr(prefix: str, length: int, op: str = "==") -> Command:
    return _match(_address("saddr"), {"prefix": {"addr": prefix, "len": length}}, op)


def among(key: Command, name: str) -> Command:
    """The set `name` holds `key`."""
    return _match(key, f"@{name}")


def goto(chain: str) -> Command:
    return {"goto": {"target": chain}}


def goto_one_of(chains: Sequence[str]) -> Command:
    """Go to one of `chains`, each with the same probability."""
    if len(chains) == 1:
        return goto(chains[0])
    choice = {"numgen": {"mode": "random", "mod": len(chains), "offset": 0}}
    return {"vmap": {"key": choice, "data": {"set": [[index, goto(chain)] for index, chain in enumerate(chains)]}}}


def dnat(key: Command, addresses: str, ports: str) -> Command:
    """To the address that map `addresses` holds for `key`, at the port that map `ports` does.

    Where either holds none the packet goes on to the next rule.
    """
    where, which = ({"map": {"key": key, "data": f"@{name}"}} for name in (addresses, ports))
    return {"dnat": {"addr": where, "port": which}}


def _address(field: str) -> Command:
    return {"payload": {"protocol": "ip", "field": field}}


TO_LOCAL_ADDRESS = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
KNOWN_FLOW = _match({"ct": {"key": "state"}}, ["established", "related"], "in")
TRANSLATED = _match({"ct": {"key": "status"}}, "dnat", "in")
FROM_ORIGINATOR = _match({"ct": {"key": "direction"}}, "original")
