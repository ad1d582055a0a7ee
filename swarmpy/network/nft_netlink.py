"""Questions about nftables that libnftables has no cheap answer to, asked of the kernel directly.

libnftables reads every element of every set before it lists anything. Whether somebody changed the rules is asked each
second, and must not cost more where thousands of ports are published.

Source  include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h; netlink(7); libnftnl's udata.h for comments.
"""

from __future__ import annotations

from swarmpy.errors import Internal
from swarmpy.network.netlink import NETLINK_NETFILTER, NFGENMSG, Netlink, attribute, attributes

__all__ = ["NftNetlink"]

NFNL_SUBSYS_NFTABLES = 10 << 8
GETTABLE, GETCHAIN, GETRULE, GETGEN = (NFNL_SUBSYS_NFTABLES | message for message in (1, 4, 7, 16))  # NFT_MSG_
NFTA_GEN_ID = NFTA_TABLE_NAME = NFTA_CHAIN_TABLE = NFTA_RULE_TABLE = NFTA_HOOK_HOOKNUM = 1
NFTA_TABLE_FLAGS = NFTA_RULE_CHAIN = 2
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 3, 4, 5
NFTA_RULE_USERDATA = 7
NF_INET_FORWARD, NF_DROP = 2, 0  # include/uapi/linux/netfilter.h
UDATA_RULE_COMMENT = 0
NFPROTO_INET, NFPROTO_IPV4 = 1, 2

Attributes = dict[int, bytes]


class NftNetlink(Netlink):
    """A netlink socket in the network namespace of the thread that makes it. Raises NetlinkError."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def generation(self) -> int:
        """A number that changes with every change to any table of this network namespace."""
        for told in self.ask(GETGEN, NFGENMSG.pack(NFPROTO_IPV4, 0)):
            return _number(dict(attributes(told, NFGENMSG.size))[NFTA_GEN_ID]) or 0
        raise Internal("the kernel does not tell the generation of its nftables rules (NFT_MSG_GETGEN)")

    def tables(self) -> dict[str, int]:
        """The tables of family ip, each with its flags."""
        return {
            _text(table[NFTA_TABLE_NAME]): _number(table[NFTA_TABLE_FLAGS]) or 0
            for table in self._told(GETTABLE, b"")
        }

    def comments(self, table: str) -> dict[str, tuple[str, ...]]:
        """The comments of all rules in a table of family ip, in order, by chain. Empty when there is no such table."""
        found: dict[str, tuple[str, ...]] = {}
        for rule in self._told(GETRULE, attribute(NFTA_RULE_TABLE, table.encode() + b"\0")):
            chain = _text(rule[NFTA_RULE_CHAIN])
            found[chain] = (*found.get(chain, ()), _comment(rule.get(NFTA_RULE_USERDATA, b"")))
        return found

    def closed_to_forwarding(self) -> list[str]:
        """Chains, as `table chain`, that drop by policy what this host forwards over IPv4."""
        return [
            f"{_text(chain[NFTA_CHAIN_TABLE])} {_text(chain[NFTA_CHAIN_NAME])}"
            for family in (NFPROTO_INET, NFPROTO_IPV4)
            for chain in self._told(GETCHAIN, b"", family)
            if _number(dict(attributes(chain.get(NFTA_CHAIN_HOOK, b""))).get(NFTA_HOOK_HOOKNUM)) == NF_INET_FORWARD
            and _number(chain.get(NFTA_CHAIN_POLICY)) == NF_DROP
        ]

    def _told(self, message: int, payload: bytes, family: int = NFPROTO_IPV4) -> list[Attributes]:
        entries = self.dump(message, NFGENMSG.pack(family, 0) + payload)
        return [dict(attributes(entry, NFGENMSG.size)) for entry in entries]


def _number(value: bytes | None) -> int | None:
    return int.from_bytes(value, "big") if value is not None else None


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _comment(userdata: bytes) -> str:
    """Of the type-length-value list that nft keeps with a rule; empty when there is none."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == UDATA_RULE_COMMENT:
            return _text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
