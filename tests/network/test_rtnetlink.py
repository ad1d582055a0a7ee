"""Messages of our own writing, as the kernel understood them and as pyroute2 reads it back."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from swarmpy.network import rtnetlink as rt
from swarmpy.network.kernel import NetlinkError
from swarmpy.network.netlink import Message
from tests.network.topology import Namespace

pytestmark = pytest.mark.root

MAC = "02:42:0a:09:00:05"


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace()
    made.links(lambda links: links.link("add", ifname="bridge", kind="bridge"))
    yield made
    made.close()


@pytest.fixture
def inside() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def change(namespace: Namespace, *requests: Message, ignore: int = 0) -> None:
    def send() -> None:
        with rt.RtNetlink() as here:
            here.change(*requests, ignore=ignore)

    namespace.run(send)


def index_of(namespace: Namespace, name: str) -> int:
    return namespace.run(lambda: socket.if_nametoindex(name))


def pair(host: Namespace, inside: Namespace) -> int:
    change(
        host,
        rt.add_veth("v0", index_of(host, "bridge"), 1400, peer="eth0", peer_mac=MAC, peer_netns=inside.fd),
    )
    return index_of(host, "v0")


def test_a_pair_is_a_port_outside_and_a_link_with_address_and_route_inside(host: Namespace, inside: Namespace) -> None:
    port = pair(host, inside)
    eth0 = index_of(inside, "eth0")
    change(
        inside,
        rt.set_up(1),
        rt.add_address(eth0, IPv4Interface("10.9.0.5/16")),
        rt.set_up(eth0),
        rt.add_default_route(eth0, IPv4Address("10.9.0.1")),
    )

    def look(links: Any) -> tuple[Any, Any, Any]:
        return links.get_links(), links.get_addr(family=socket.AF_INET, index=eth0), links.get_default_routes()

    loopback, link = inside.links(look)[0]
    assert loopback["flags"] & 1 and link["flags"] & 1
    assert (link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_MTU")) == (MAC, 1400)
    (address,) = inside.links(look)[1]
    assert (address.get_attr("IFA_ADDRESS"), address["prefixlen"]) == ("10.9.0.5", 16)
    assert address.get_attr("IFA_BROADCAST") == "10.9.255.255"
    (route,) = inside.links(look)[2]
    assert (route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")) == ("10.9.0.1", eth0)

    (outer,) = host.links(lambda links: links.get_links(port))
    assert (outer.get_attr("IFLA_MASTER"), outer.get_attr("IFLA_MTU")) == (index_of(host, "bridge"), 1400)
    assert outer["flags"] & 1
    change(host, rt.delete_link(port))
    assert inside.links(lambda links: len(links.get_links())) == 1


@pytest.mark.parametrize("learning", [True, False])
def test_a_port_learns_and_is_flooded_or_knows_whom_it_holds(
    host: Namespace, inside: Namespace, *, learning: bool
) -> None:
    port = pair(host, inside)
    change(host, rt.shape_port(port, hairpin=True, learning=learning, unicast_flood=learning), rt.pin(port, MAC))
    (shown,) = host.links(lambda links: links.get_links(port))
    data = shown.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    found = {name: data.get_attr(f"IFLA_BRPORT_{name}") for name in ("MODE", "LEARNING", "UNICAST_FLOOD")}
    assert found == {"MODE": 1, "LEARNING": learning, "UNICAST_FLOOD": learning}
    entries = host.links(lambda links: list(links.fdb("dump", ifindex=port)))
    assert rt.NUD_NOARP in [entry["state"] for entry in entries if entry.get_attr("NDA_LLADDR") == MAC]


def test_endpoints_of_other_nodes_are_set_moved_and_dropped(host: Namespace) -> None:
    """More at once than a socket holds answers for."""
    host.links(
        lambda links: links.link(
            "add", ifname="vx", kind="vxlan", vxlan_id=4711, vxlan_local="10.9.9.9", vxlan_port=4789, vxlan_learning=0
        )
    )
    index, bridge = index_of(host, "vx"), index_of(host, "bridge")
    host.links(lambda links: links.link("set", index=index, master=bridge, state="up"))
    macs = [f"02:42:0a:0a:{number >> 8:02x}:{number & 255:02x}" for number in range(600)]
    addresses = [f"10.10.{number >> 8}.{number & 255}" for number in range(600)]
    change(
        host,
        *(rt.set_forwarding(index, mac, "10.9.9.1") for mac in macs),
        *(rt.set_neighbour(index, address, mac) for address, mac in zip(addresses, macs, strict=True)),
        *(rt.pin(index, mac) for mac in macs),
    )
    change(host, rt.set_forwarding(index, macs[0], "10.9.9.2"))

    def look(links: Any) -> tuple[dict[str, str], dict[str, str], set[str]]:
        entries = [entry for entry in links.fdb("dump", ifindex=index) if entry["ifindex"] == index]
        found = [(entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST"), entry["state"]) for entry in entries]
        vteps = {mac: vtep for mac, vtep, _ in found if vtep is not None}
        known = {
            entry.get_attr("NDA_DST"): entry.get_attr("NDA_LLADDR")
            for entry in links.get_neighbours(ifindex=index)
            if entry["ifindex"] == index and entry["state"] & rt.NUD_PERMANENT
        }
        return vteps, known, {mac for mac, vtep, state in found if vtep is None and state == rt.NUD_NOARP}

    vteps, known, pinned = host.links(look)
    assert vteps == {**dict.fromkeys(macs, "10.9.9.1"), macs[0]: "10.9.9.2"}
    assert {address: known.get(address) for address in addresses} == dict(zip(addresses, macs, strict=True))
    assert pinned >= set(macs)
    drops = [
        *(rt.unpin(index, mac) for mac in macs),
        *(rt.drop_neighbour(index, address, mac) for address, mac in zip(addresses, macs, strict=True)),
        *(rt.drop_forwarding(index, mac, "10.9.9.1") for mac in macs[1:]),
    ]
    change(host, *drops, ignore=errno.ENOENT)
    change(host, *drops, ignore=errno.ENOENT)
    vteps, known, pinned = host.links(look)
    assert (vteps, pinned & set(macs), known.keys() & set(addresses)) == ({macs[0]: "10.9.9.2"}, set(), set())
    with pytest.raises(NetlinkError) as refusal:
        change(host, *drops, rt.drop_forwarding(index, macs[0], "10.9.9.2"))
    assert refusal.value.code == errno.ENOENT
    assert host.links(look)[0] == {}, "those after a refusal are carried out all the same"


def test_the_first_refusal_of_several_is_told_and_the_next_change_is_not_taken_for_it(host: Namespace) -> None:
    with pytest.raises(NetlinkError) as refusal:
        change(host, rt.set_up(4711), rt.add_address(4712, IPv4Interface("10.9.0.5/16")))
    assert refusal.value.code == errno.ENODEV
    change(host, rt.set_up(1))


def test_entries_are_read_back_as_pyroute2_reads_them(host: Namespace) -> None:
    """More of them than one answer of the kernel holds, and those of one link alone."""

    def make(links: Any) -> None:
        bridge = index_of(host, "bridge")
        for number, name in enumerate(("one", "other"), start=7):
            links.link("add", ifname=name, kind="vxlan", vxlan_id=number, vxlan_port=4700 + number, vxlan_learning=0)
            links.link("set", index=links.link_lookup(ifname=name)[0], master=bridge, state="up")

    host.links(make)
    known = {f"10.9.{n // 250}.{n % 250 + 1}": f"02:42:0a:09:{n >> 8:02x}:{n & 255:02x}" for n in range(2000)}
    one, other = index_of(host, "one"), index_of(host, "other")
    for link, vtep, entries in ((one, "192.0.2.7", known), (other, "192.0.2.8", {"10.9.0.1": MAC})):
        for address, mac in entries.items():
            change(
                host, rt.set_forwarding(link, mac, vtep), rt.set_neighbour(link, address, mac), rt.pin(link, mac)
            )

    def read() -> tuple[list[rt.Neighbour], list[rt.Neighbour], list[rt.Neighbour]]:
        with rt.RtNetlink() as here:
            return here.forwarding(one), here.neighbours(one), here.forwarding(other + 1000)

    forwarding, neighbours, none = host.run(read)
    assert {(entry.address, entry.mac) for entry in neighbours} == set(known.items())
    assert {entry.mac for entry in forwarding if entry.address == "192.0.2.7"} == set(known.values())
    assert none == []

    def said(links: Any) -> set[tuple[int, str, str, int]]:
        names = ("NDA_LLADDR", "NDA_DST", "NDA_MASTER")
        entries = [item for item in links.fdb("dump", ifindex=one) if item["ifindex"] == one]
        told = ((item["state"], *(item.get_attr(name) for name in names)) for item in entries)
        return {(state, mac or "", address or "", master or 0) for state, mac, address, master in told}

    assert {entry[1:] for entry in forwarding} == host.links(said)
