"""The routing mesh with real hosts, containers, servers and clients."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

import pytest

from swarmpy.errors import Conflict
from swarmpy.network import Backend, IngressNetwork, Mesh, MeshView, Peer, Port
from swarmpy.network.nftables import Nftables
from tests.network.topology import INGRESS, Container, Host, Namespace, ask, ask_udp, dial, read_exactly, read_name

pytestmark = pytest.mark.root

HTTP = Port("tcp", 8080, 80)
DNS = Port("udp", 5353, 53)


class Swarm:
    """Says to every host what a manager would."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.tasks: dict[str, Backend] = {}
        self.services: dict[str, tuple[Port, ...]] = {"web": (HTTP, DNS)}
        self.containers: list[Container] = []

    def view(self, host: Host) -> MeshView:
        address = IPv4Interface(f"{host.ingress}/{INGRESS.prefixlen}")
        return MeshView(
            node_id=host.name,
            ingress=IngressNetwork(INGRESS, 4096, address, host.address),
            peers={each.name: Peer(each.address, each.ingress) for each in self.hosts},
            services=self.services,
            tasks=dict(self.tasks),
        )

    def apply(self) -> None:
        for host in self.hosts:
            host.call(host.mesh.apply(self.view(host)))

    def run(self, host: Host, name: str, number: int) -> Container:
        """A task on `host`, known everywhere once `apply` is called."""
        container = host.container(name, INGRESS[number])
        container.serve("tcp", 80)
        container.serve("udp", 53)
        self.containers.append(container)
        self.tasks[name] = Backend("web", host.name, INGRESS[number])
        return container


@pytest.fixture
def swarm(hosts: list[Host]) -> Iterator[Swarm]:
    made = Swarm(hosts)
    made.apply()
    yield made
    for container in made.containers:
        container.close()


def spread(namespace: Namespace, address: object, port: int = 8080, times: int = 30) -> Counter[str]:
    return Counter(ask(namespace, address, port) for _ in range(times))


def test_every_node_answers_from_every_backend(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(first, "b", 11)
    swarm.run(second, "c", 12)
    swarm.apply()
    for host in (first, second, third):
        assert set(spread(outside, host.address)) == {"a", "b", "c"}, host.name
        assert set(spread(host.namespace, "127.0.0.1")) == {"a", "b", "c"}, host.name
    assert set(spread(third.namespace, third.address)) == {"a", "b", "c"}
    assert set(spread(third.namespace, first.address)) == {"a", "b", "c"}


def test_a_container_reaches_the_port_of_its_own_node_and_itself(swarm: Swarm) -> None:
    first = swarm.hosts[0]
    container = swarm.run(first, "only", 10)
    swarm.apply()
    assert ask(container.namespace, first.address, 8080) == "only"
    assert ask(container.namespace, first.network.gateway, 8080) == "only"


def test_a_port_without_backends_refuses_at_once(swarm: Swarm, outside: Namespace) -> None:
    host = swarm.hosts[2]
    for namespace, address in ((outside, host.address), (host.namespace, "127.0.0.1")):
        with pytest.raises(ConnectionRefusedError):
            ask(namespace, address, 8080)
    with host.namespace.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", 5353))
        client.settimeout(5)
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_a_connection_outlives_the_withdrawal_of_its_backend(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "old", 10)
    swarm.apply()
    with dial(outside, third.address, 8080) as connection, dial(first.namespace, "127.0.0.1", 8080) as local:
        assert read_name(connection) == read_name(local) == "old"
        swarm.run(second, "new", 11)
        del swarm.tasks["old"]
        swarm.apply()
        assert set(spread(outside, third.address)) == {"new"}
        # The neighbour entry of the old backend must not be needed from anyone's cache.
        third.namespace.links(_forget_cached_neighbours)
        for still in (connection, local):
            still.sendall(b"x" * 100_000)
            assert read_exactly(still, 100_000) == b"x" * 100_000


def test_udp_clients_move_when_their_backend_is_withdrawn(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "old", 10)
    swarm.apply()
    with outside.socket(socket.SOCK_DGRAM) as client, third.namespace.socket(socket.SOCK_DGRAM) as local:
        assert ask_udp(client, third.address, 5353) == "old"
        assert ask_udp(local, "127.0.0.1", 5353) == "old"
        swarm.run(second, "new", 11)
        del swarm.tasks["old"]
        swarm.apply()
        assert ask_udp(client, third.address, 5353) == "new"
        assert ask_udp(local, "127.0.0.1", 5353) == "new"


def test_ten_megabytes_cross_two_nodes_unharmed(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.apply()
    block = bytes(range(256)) * 1024
    with dial(outside, third.address, 8080) as connection:
        assert read_name(connection) == "a"
        for _ in range(48):
            connection.sendall(block)
            assert read_exactly(connection, len(block)) == block


def test_what_is_not_published_cannot_be_reached(swarm: Swarm, outside: Namespace) -> None:
    first, second, _ = swarm.hosts
    container = swarm.run(first, "a", 10)
    container.serve("tcp", 81)
    swarm.apply()
    route = {"dst": str(INGRESS), "gateway": str(first.address)}
    outside.links(lambda links: links.route("add", **route))
    with outside.socket(socket.SOCK_STREAM) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.connect((str(INGRESS[10]), 81))
    # A listener of the host on loopback stays out of a container's reach, although the bridge routes loopback.
    with first.namespace.socket(socket.SOCK_STREAM) as listener:
        listener.bind(("0.0.0.0", 9000))
        listener.listen()
        container.namespace.links(lambda links: links.route("add", dst="127.0.0.0/8", gateway=str(first.ingress)))
        with container.namespace.socket(socket.SOCK_STREAM) as client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.connect((str(first.ingress), 9000))
    assert second.network.subnet


def test_a_port_of_the_host_is_not_taken_from_it(swarm: Swarm) -> None:
    first = swarm.hosts[0]
    swarm.run(first, "a", 10)
    with first.namespace.socket(socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 2222))
        listener.listen()
        swarm.services = {"web": (HTTP, Port("tcp", 2222, 80))}
        swarm.apply()
        assert list(first.mesh.blocked) == [("tcp", 2222)]
        with dial(first.namespace, "127.0.0.1", 2222) as connection, listener.accept()[0] as accepted:
            assert accepted.getpeername() == connection.getsockname()
    first.call(first.mesh.audit())
    assert not first.mesh.blocked
    assert ask(first.namespace, "127.0.0.1", 2222) == "a"


def test_an_audit_repairs_what_others_changed(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.apply()
    assert third.call(third.mesh.audit()) is False

    def sabotage(links: Any) -> None:
        links.link("del", index=links.link_lookup(ifname="sw-vx")[0])

    third.namespace.links(sabotage)
    second.namespace.run(_delete_table)
    for host in (second, third):
        assert host.call(host.mesh.audit()) is True
        assert ask(outside, host.address, 8080) == "a"
        assert host.call(host.mesh.audit()) is False


def test_a_new_daemon_takes_over_without_a_gap(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.apply()
    with dial(outside, third.address, 8080) as connection:
        assert read_name(connection) == "a"
        third.call(third.mesh.release())
        assert ask(outside, third.address, 8080) == "a"
        third.mesh = third.call(third._mesh())
        third.call(third.mesh.apply(swarm.view(third)))
        connection.sendall(b"still here")
        assert read_exactly(connection, 10) == b"still here"
    assert ask(outside, third.address, 8080) == "a"


def test_two_meshes_in_one_namespace_are_told_apart(swarm: Swarm) -> None:
    first = swarm.hosts[0]

    async def second_mesh() -> None:
        mesh = Mesh("other")
        try:
            await mesh.apply(swarm.view(first))
        finally:
            await mesh.release()

    with pytest.raises(Conflict, match="another swarm node"):
        first.call(second_mesh())


def test_nothing_is_left_after_close(swarm: Swarm) -> None:
    first = swarm.hosts[0]
    swarm.run(first, "a", 10)
    swarm.apply()
    for container in swarm.containers:
        container.close()
    swarm.containers.clear()
    first.call(first.mesh.apply(replace(swarm.view(first), ingress=None)))
    first.call(first.network.close())
    assert first.link_names() == {"lo", "eth0"}
    assert first.namespace.run(_tables) == set()
    first.restart()


def _forget_cached_neighbours(links: Any) -> None:
    bridge = links.link_lookup(ifname="sw-ing")[0]
    for entry in list(links.get_neighbours(ifindex=bridge)):
        links.neigh("del", ifindex=bridge, dst=entry.get_attr("NDA_DST"))


def _delete_table() -> None:
    nftables = Nftables()
    nftables.run([{"delete": {"table": {"family": "ip", "name": "sw-mesh"}}}])
    nftables.close()


def _tables() -> set[str]:
    nftables = Nftables()
    try:
        return nftables.tables("ip")
    finally:
        nftables.close()
