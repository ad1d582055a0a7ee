"""The three files that tell a container who it is: /etc/hostname, /etc/hosts, /etc/resolv.conf. Pure.

Source  hosts(5), resolv.conf(5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from swarmpy.errors import InvalidArgument

__all__ = ["check_extra_hosts", "hosts_file", "resolv_conf"]

_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts_file(
    addresses: Sequence[str], hostname: str, domainname: str, extra: Sequence[str], gateway: str = ""
) -> str:
    """/etc/hosts: this container's `addresses`, and `extra` ("name:address"; "host-gateway" is the bridge's)."""
    lines = []
    for item in extra:
        name, address = _split_host(item)
        resolved = gateway if address == "host-gateway" else address
        if resolved:
            lines.append(f"{resolved}\t{name}\n")
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    lines += [f"{address}\t{names}\n" for address in addresses]
    return _LOCAL + "".join(lines)


def check_extra_hosts(extra: Sequence[str]) -> None:
    """`InvalidArgument` for an entry that is not "name:address"."""
    for item in extra:
        _split_host(item)


def _split_host(item: str) -> tuple[str, str]:
    separator = "=" if "=" in item and ":" not in item.split("=", 1)[0] else ":"
    name, found, address = item.partition(separator)
    address = address.removeprefix("[").removesuffix("]")
    if found and name and address == "host-gateway":
        return name, address
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidArgument(f"bad format for add-host: '{item}'; write NAME:ADDRESS") from None
    return name, address


def resolv_conf(
    host: str, dns: Sequence[str], search: Sequence[str], options: Sequence[str], *, own_network: bool
) -> str:
    """/etc/resolv.conf from the host's, with what the user sets in place of it.

    `own_network`: the host's loopback is out of reach, so its loopback name servers are left out.
    """
    servers, searches, opts = [], [], []
    for line in host.splitlines():
        words = line.split()
        if not words or words[0].startswith(("#", ";")):
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = words[1:]
        elif words[0] == "options":
            opts = words[1:]
    if own_network:
        servers = [server for server in servers if not _loopback(server)]
    servers, searches, opts = list(dns) or servers, list(search) or searches, list(options) or opts
    lines = [f"nameserver {server}" for server in servers]
    if searches and searches != ["."]:
        lines.append("search " + " ".join(searches))
    if opts:
        lines.append("options " + " ".join(opts))
    return "".join(line + "\n" for line in lines)


def _loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
