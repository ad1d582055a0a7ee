"""Questions about nftables that libnftables has no cheap answer to, asked of the kernel directly.

libnftables reads every element of every set before it lists anything. Whether somebody changed the rules is asked each
second, and must not cost more where thousands of ports are published.

Source  include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h; netlink(7); libnftnl's udata.h for comments.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from swarmpy.errors import Internal
from swarmpy.network.netlink import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    headers,
)

__all__ = ["NftNetlink"]

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES = 12, 10
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETGEN = 1, 4, 7, 16
NFTA_GEN_ID = NFTA_TABLE_NAME = NFTA_CHAIN_TABLE = NFTA_RULE_TABLE = NFTA_HOOK_HOOKNUM = 1
NFTA_TABLE_FLAGS = NFTA_RULE_CHAIN = 2
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 3, 4, 5
NFTA_RULE_USERDATA = 7
NF_INET_FORWARD, NF_DROP = 2, 0  # include/uapi/linux/netfilter.h
UDATA_RULE_COMMENT = 0
NFPROTO_INET, NFPROTO_IPV4 = 1, 2

MESSAGE = struct.Struct("=IHHIIBBH")  # struct nlmsghdr, 16 bytes, and struct nfgenmsg, 4 bytes
BUFFER_BYTES = 1 << 16

Attributes = dict[int, bytes]


class NftNetlink:
    """A netlink socket in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)

    def generation(self) -> int:
        """A number that changes with every change to any table of this network namespace."""
        self._ask(NFT_MSG_GETGEN, NLM_F_REQUEST, b"")
        for _, told in _messages(self._socket.recv(BUFFER_BYTES)):
            return _number(told[NFTA_GEN_ID]) or 0
        raise Internal("the kernel does not tell the generation of its nftables rules (NFT_MSG_GETGEN)")

    def tables(self) -> dict[str, int]:
        """The tables of family ip, each with its flags."""
        return {
            _text(table[NFTA_TABLE_NAME]): _number(table[NFTA_TABLE_FLAGS]) or 0
            for table in self._dump(NFT_MSG_GETTABLE, b"")
        }

    def comments(self, table: str) -> dict[str, tuple[str, ...]]:
        """The comments of all rules in a table of family ip, in order, by chain. Empty when there is no such table."""
        found: dict[str, tuple[str, ...]] = {}
        for rule in self._dump(NFT_MSG_GETRULE, attribute(NFTA_RULE_TABLE, table.encode() + b"\0")):
            chain = _text(rule[NFTA_RULE_CHAIN])
            found[chain] = (*found.get(chain, ()), _comment(rule.get(NFTA_RULE_USERDATA, b"")))
        return found

    def closed_to_forwarding(self) -> list[str]:
        """Chains, as `table chain`, that drop by policy what this host forwards over IPv4."""
        return [
            f"{_text(chain[NFTA_CHAIN_TABLE])} {_text(chain[NFTA_CHAIN_NAME])}"
            for family in (NFPROTO_INET, NFPROTO_IPV4)
            for chain in self._dump(NFT_MSG_GETCHAIN, b"", family)
            if _number(dict(attributes(chain.get(NFTA_CHAIN_HOOK, b""))).get(NFTA_HOOK_HOOKNUM)) == NF_INET_FORWARD
            and _number(chain.get(NFTA_CHAIN_POLICY)) == NF_DROP
        ]

    def _dump(self, message: int, payload: bytes, family: int = NFPROTO_IPV4) -> list[Attributes]:
        """All that a dump says, made again as long as something is changed meanwhile."""
        while True:
            self._ask(message, NLM_F_REQUEST | NLM_F_DUMP, payload, family)
            found, whole, last = [], True, False
            while not last:
                data = self._socket.recv(BUFFER_BYTES)
                for flags, told in _messages(data):
                    whole = whole and not flags & NLM_F_DUMP_INTR
                    found.append(told)
                last = _last(data)
            if whole:
                return found

    def _ask(self, message: int, flags: int, payload: bytes, family: int = NFPROTO_IPV4) -> None:
        kind = NFNL_SUBSYS_NFTABLES << 8 | message
        length = MESSAGE.size + len(payload)
        self._socket.send(MESSAGE.pack(length, kind, flags, 0, 0, family, 0, 0) + payload)

    def close(self) -> None:
        self._socket.close()


def _messages(data: bytes) -> Iterator[tuple[int, Attributes]]:
    for offset, length, kind, flags in headers(data):
        if kind not in (NLMSG_ERROR, NLMSG_DONE):
            yield flags, dict(attributes(data, offset + MESSAGE.size, offset + length))


def _last(data: bytes) -> bool:
    return any(kind in (NLMSG_ERROR, NLMSG_DONE) for _, _, kind, _ in headers(data))


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
