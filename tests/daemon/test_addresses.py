"""Which addresses a node uses, by Docker's rules."""

from __future__ import annotations

import pytest

from swarmpy.daemon.addresses import Interface, NodeAddresses, resolve_addresses, with_default_port
from swarmpy.errors import InvalidArgument

LO = Interface("lo", ("127.0.0.1", "::1"))
ETH0 = Interface("eth0", ("192.0.2.7", "2001:db8::7"))
ETH1 = Interface("eth1", ("198.51.100.7",))
BRIDGE = Interface("sw0", ("172.18.0.1",), ours=True)


def test_the_one_address_of_the_host_is_advertised() -> None:
    assert resolve_addresses("", "", "", (LO, ETH0, BRIDGE)) == NodeAddresses(
        "0.0.0.0:2377", "192.0.2.7:2377", "192.0.2.7"
    )


def test_with_several_addresses_the_user_must_choose() -> None:
    with pytest.raises(InvalidArgument, match=r"192\.0\.2\.7 on eth0, 198\.51\.100\.7 on eth1.*--advertise-addr"):
        resolve_addresses("0.0.0.0:2377", "", "", (LO, ETH0, ETH1))
    with pytest.raises(InvalidArgument, match="--advertise-addr"):
        resolve_addresses("0.0.0.0:2377", "", "", (LO,))


def test_a_listen_address_that_is_no_wildcard_is_advertised_too() -> None:
    chosen = resolve_addresses("127.0.0.5:4000", "", "", (LO, ETH0, ETH1))
    assert chosen == NodeAddresses("127.0.0.5:4000", "127.0.0.5:4000", "127.0.0.5")


def test_a_joiner_advertises_its_address_towards_the_swarm() -> None:
    chosen = resolve_addresses("0.0.0.0:2377", "", "", (LO, ETH0, ETH1), "198.51.100.7")
    assert chosen.advertise == "198.51.100.7:2377"


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("192.0.2.9", "192.0.2.9:2377"),
        ("192.0.2.9:4000", "192.0.2.9:4000"),
        ("eth1", "198.51.100.7:2377"),
        ("eth1:4000", "198.51.100.7:4000"),
        ("[2001:db8::9]:4000", "[2001:db8::9]:4000"),
        ("2001:db8::9", "[2001:db8::9]:2377"),
    ],
)
def test_the_forms_of_an_advertise_address(given: str, resolved: str) -> None:
    assert resolve_addresses("0.0.0.0:2377", given, "", (LO, ETH0, ETH1)).advertise == resolved


def test_the_advertised_port_follows_the_listen_port() -> None:
    assert resolve_addresses("0.0.0.0:4000", "192.0.2.7", "", (ETH0,)).advertise == "192.0.2.7:4000"


def test_the_data_path_may_go_elsewhere() -> None:
    assert resolve_addresses("", "192.0.2.7", "eth1", (ETH0, ETH1)).data_path == "198.51.100.7"


@pytest.mark.parametrize(
    ("listen", "advertise", "data_path", "told"),
    [
        ("eth9", "", "", "listen address eth9: neither an IP address nor an interface"),
        ("0.0.0.0:99999", "", "", "port must be a number"),
        ("", "0.0.0.0", "", "advertise address 0.0.0.0: must be an address others can reach"),
        ("", "192.0.2.7", "0.0.0.0", "data path address"),
    ],
)
def test_what_cannot_be_is_named(listen: str, advertise: str, data_path: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        resolve_addresses(listen, advertise, data_path, (ETH0,))


@pytest.mark.parametrize(
    ("given", "resolved"),
    [("node1", "node1:2377"), ("192.0.2.7:1", "192.0.2.7:1"), ("[2001:db8::1]", "[2001:db8::1]:2377")],
)
def test_remotes_have_a_default_port(given: str, resolved: str) -> None:
    assert with_default_port(given) == resolved
