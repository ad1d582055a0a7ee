"""Which addresses a node uses: where it listens, what it tells others, where its data path ends.

In      what the user gave (`--listen-addr`, `--advertise-addr`, `--data-path-addr`) and the host's interfaces.
Out     plain `ip:port` and IPs, or InvalidArgument with the option's name. Pure.
Source  Docker Engine API: POST /swarm/init and /swarm/join.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from swarmpy.errors import InvalidArgument

__all__ = ["DEFAULT_PORT", "Interface", "NodeAddresses", "resolve_addresses", "with_default_port"]

DEFAULT_PORT = 2377


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface that is up, with its addresses (no prefix length), global scope or loopback."""

    name: str
    addresses: tuple[str, ...]
    ours: bool = False                  # made by a container engine: nobody reaches this node there


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    listen: str                         # ip:port
    advertise: str                      # ip:port
    data_path: str                      # ip


def resolve_addresses(
    listen: str, advertise: str, data_path: str, interfaces: Sequence[Interface], route_source: str = ""
) -> NodeAddresses:
    """Apply Docker's rules. Empty means not given; `route_source`: this host's address towards the swarm."""
    listen_ip, port = _host_port("listen address", listen or "0.0.0.0", interfaces, DEFAULT_PORT)
    if advertise:
        advertise_ip, advertise_port = _host_port("advertise address", advertise, interfaces, port)
        if ipaddress.ip_address(advertise_ip).is_unspecified:
            raise InvalidArgument(f"advertise address {advertise}: must be an address others can reach")
    else:
        advertise_port = port
        specific = "" if ipaddress.ip_address(listen_ip).is_unspecified else listen_ip
        advertise_ip = specific or route_source or _only_address(interfaces)
    data_ip = _host("data path address", data_path, interfaces) if data_path else advertise_ip
    if ipaddress.ip_address(data_ip).is_unspecified:
        raise InvalidArgument(f"data path address {data_path}: must be an address others can reach")
    return NodeAddresses(_joined(listen_ip, port), _joined(advertise_ip, advertise_port), data_ip)


def with_default_port(remote: str) -> str:
    """`host[:port]` of a manager to join, with the default port filled in."""
    text = remote.removeprefix("tcp://").strip()
    host, port = _split("remote address", text, DEFAULT_PORT)
    if not host:
        raise InvalidArgument(f"remote address {remote!r}: must be host[:port]")
    return _joined(host, port)


def _only_address(interfaces: Sequence[Interface]) -> str:
    """The one address others may reach this host at."""
    found: list[tuple[str, str]] = []
    for interface in interfaces:
        usable = [ipaddress.ip_address(text) for text in interface.addresses]
        usable = [address for address in usable if not address.is_loopback and not address.is_link_local]
        usable = [address for address in usable if address.version == 4] or usable
        if not interface.ours:
            found += [(interface.name, str(address)) for address in usable]
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise InvalidArgument(
            "could not find the system's IP address: specify one with --advertise-addr, because no interface but the"
            " loopback has one"
        )
    named = ", ".join(f"{address} on {name}" for name, address in found)
    raise InvalidArgument(
        "could not choose an IP address to advertise since this system has multiple addresses"
        f" ({named}): specify one with --advertise-addr"
    )


def _host_port(what: str, text: str, interfaces: Sequence[Interface], default_port: int) -> tuple[str, int]:
    host, port = _split(what, text, default_port)
    return _host(what, host or "0.0.0.0", interfaces), port


def _host(what: str, text: str, interfaces: Sequence[Interface]) -> str:
    """An IP address as it is, or the one of an interface by name."""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass                                    # then it names an interface
    named = next((interface for interface in interfaces if interface.name == text), None)
    if named is None:
        raise InvalidArgument(f"{what} {text}: neither an IP address nor an interface of this host")
    addresses = [ipaddress.ip_address(address) for address in named.addresses]
    addresses = [address for address in addresses if address.version == 4] or addresses
    if len(addresses) != 1:
        shown = ", ".join(map(str, addresses)) or "none"
        raise InvalidArgument(f"{what} {text}: the interface must have one address and has {shown}; give the address")
    return str(addresses[0])


def _split(what: str, text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") > 1:                   # a bare IPv6 address
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not port:
        return host, default_port
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{what} {text}: the port must be a number from 1 to 65535")
    return host, int(port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
