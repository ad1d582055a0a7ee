"""What others do to the kernel's tables and links, and how it is put right."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from swarmpy.network import HostPort
from tests.network.swarm import DNS, Swarm, spread
from tests.network.topology import Container, Host, Namespace, ask, ask_udp, shell

pytestmark = pytest.mark.root

HOST_PORT = 9090


@pytest.fixture
def swarm(hosts: list[Host]) -> Iterator[Swarm]:
    """A mesh on three hosts, and on the first a task that also has a port of its own host."""
    made = Swarm(hosts)
    container = made.run(hosts[0], "a", 10)
    hosts[0].call(hosts[0].network.publish(container.id, [HostPort("tcp", 80, HOST_PORT)]))
    yield made
    made.close()


@pytest.fixture
def container(swarm: Swarm) -> Container:
    return swarm.containers[0]


def all_answer(swarm: Swarm, outside: Namespace) -> None:
    """Through each node and on the port of its own host, from outside and from each node itself."""
    for host in swarm.hosts:
        assert ask(outside, host.address, 8080) == ask(host.namespace, "127.0.0.1", 8080) == "a", host.name
    assert ask(outside, swarm.hosts[0].address, HOST_PORT) == "a"


BREAKAGES = [
    "nft flush ruleset",
    "nft delete table ip sw-mesh",
    "nft delete table ip sw-host; nft delete table ip sw-user",
    "nft flush chain ip sw-mesh arriving; nft flush chain ip sw-host arriving",
    "nft insert rule ip sw-mesh arriving accept",
    "nft add table ip sw-mesh '{ flags dormant; }'",
    "ip link del sw-vx",
    "ip link del sw-ing",
    "ip link del sw0",
    "ip link set sw-ing down; ip link set sw-vx down",
    "ip link del sw0; ip link del sw-ing; ip link del sw-vx; nft flush ruleset",
]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_glance_finds_it(swarm: Swarm, outside: Namespace, breakage: str) -> None:
    all_answer(swarm, outside)
    for host in swarm.hosts:
        shell(host.namespace, breakage)
    for host in swarm.hosts:
        found = [host.call(host.mesh.glance()), host.call(host.network.glance())]
        assert "sw0" in breakage or "sw-host" in breakage or found[0]
    all_answer(swarm, outside)
    for host in swarm.hosts:
        assert not host.call(host.mesh.glance()) and not host.call(host.network.glance())
        assert not host.call(host.mesh.audit()), "a repair leaves nothing to be repaired"


@pytest.mark.parametrize("breakage", [
    "nft flush set ip sw-mesh of-1",
    "nft flush map ip sw-mesh to-0; nft flush map ip sw-mesh port",
    "nft add element ip sw-mesh to-0 '{ tcp . 9999 : 10.0.0.99 }'",
    "nft add map ip sw-mesh strange '{ type mark : verdict; elements = { 1 : accept }; }'",
    "nft delete table ip sw-mesh; nft add table ip sw-mesh; nft add set ip sw-mesh port '{ type mark; }'",
    "bridge fdb flush dev sw-vx; ip neigh flush dev sw-vx nud permanent",
    "ip addr flush dev sw-ing",
    "ip link set sw-vx nomaster",
    "sysctl -qw net.ipv4.ip_forward=0",
])  # fmt: skip
def test_an_audit_finds_it(swarm: Swarm, outside: Namespace, breakage: str) -> None:
    for host in swarm.hosts:
        shell(host.namespace, breakage)
        assert host.call(host.mesh.audit())
        assert not host.call(host.mesh.audit())
    all_answer(swarm, outside)


@pytest.mark.parametrize("breakage", ["ip link del sw-vx", "nft flush ruleset", "nft flush map ip sw-mesh to-0"])
def test_a_change_that_meets_it_repairs_it_at_once(swarm: Swarm, outside: Namespace, breakage: str) -> None:
    _, second, third = swarm.hosts
    shell(third.namespace, breakage)
    swarm.run(second, "b", 11)
    swarm.withdraw("a")
    assert spread(outside, third.address) == {"b"}


def test_where_rules_are_missing_a_connection_is_refused_and_never_hangs(swarm: Swarm, outside: Namespace) -> None:
    first = swarm.hosts[0]
    shell(first.namespace, "nft flush ruleset")
    for namespace, address in ((outside, first.address), (first.namespace, "127.0.0.1")) * 3:
        with pytest.raises(ConnectionRefusedError):
            ask(namespace, address, 8080)
    first.call(first.mesh.glance())
    first.call(first.network.glance())
    all_answer(swarm, outside)


def test_a_daemon_that_knows_no_view_yet_leaves_the_mesh_as_it_is(swarm: Swarm, outside: Namespace) -> None:
    """It was started again, and no manager answers it."""
    third = swarm.hosts[2]
    third.call(third.mesh.release())
    third.new_mesh()
    assert not third.call(third.mesh.audit())
    assert not third.call(third.mesh.glance())
    assert ask(outside, third.address, 8080) == "a"


def test_a_container_that_ended_is_no_reason_to_repair(swarm: Swarm, container: Container) -> None:
    host = container.host
    shell(host.namespace, f"ip link del {container.endpoint.host_interface}")
    assert not host.call(host.network.glance())


def test_datagrams_follow_a_repair(swarm: Swarm, outside: Namespace) -> None:
    """A client that went on while the rules were missing is not left with a flow that leads nowhere."""
    first = swarm.hosts[0]
    with outside.socket(socket.SOCK_DGRAM) as client:
        assert ask_udp(client, first.address, DNS.published) == "a"
        shell(first.namespace, "nft flush ruleset")
        client.sendto(b"?", (str(first.address), DNS.published))
        first.call(first.mesh.glance())
        assert ask_udp(client, first.address, DNS.published) == "a"
