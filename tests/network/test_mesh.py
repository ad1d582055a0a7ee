"""The routing mesh with real hosts, containers, servers and clients."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from swarmpy.errors import Conflict
from swarmpy.network import Mesh, Port, overlay
from swarmpy.network.nft_netlink import NftNetlink
from swarmpy.network.reachability import MISSES
from tests.network.swarm import DNS, HTTP, Swarm, spread
from tests.network.topology import INGRESS, Namespace, ask, ask_udp, dial, read_exactly, read_name, shell

pytestmark = pytest.mark.root


def test_every_node_answers_from_every_backend(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(first, "b", 11)
    swarm.run(second, "c", 12)
    for host in (first, second, third):
        assert spread(outside, host.address) == {"a", "b", "c"}, host.name
        assert spread(host.namespace, "127.0.0.1") == {"a", "b", "c"}, host.name
    assert spread(third.namespace, third.address) == {"a", "b", "c"}
    assert spread(third.namespace, first.address) == {"a", "b", "c"}


def test_a_container_reaches_the_port_of_its_own_node_and_itself(swarm: Swarm) -> None:
    first = swarm.hosts[0]
    container = swarm.run(first, "only", 10)
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
    with dial(outside, third.address, 8080) as connection, dial(first.namespace, "127.0.0.1", 8080) as local:
        assert read_name(connection) == read_name(local) == "old"
        swarm.run(second, "new", 11)
        swarm.withdraw("old")
        assert spread(outside, third.address) == {"new"}
        # The neighbour entry of the old backend must not be needed from anyone's cache.
        third.namespace.links(_forget_cached_neighbours)
        for still in (connection, local):
            still.sendall(b"x" * 100_000)
            assert read_exactly(still, 100_000) == b"x" * 100_000


def test_udp_clients_move_when_their_backend_is_withdrawn(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "old", 10)
    with outside.socket(socket.SOCK_DGRAM) as client, third.namespace.socket(socket.SOCK_DGRAM) as local:
        assert ask_udp(client, third.address, 5353) == "old"
        assert ask_udp(local, "127.0.0.1", 5353) == "old"
        swarm.run(second, "new", 11)
        swarm.withdraw("old")
        assert ask_udp(client, third.address, 5353) == "new"
        assert ask_udp(local, "127.0.0.1", 5353) == "new"


def test_ten_megabytes_cross_two_nodes_unharmed(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
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
        swarm.publish(web=(HTTP, Port("tcp", 2222, 80)))
        assert list(first.mesh.blocked) == [("tcp", 2222)]
        with dial(first.namespace, "127.0.0.1", 2222) as connection, listener.accept()[0] as accepted:
            assert accepted.getpeername() == connection.getsockname()
    first.call(first.mesh.audit())
    assert not first.mesh.blocked
    assert ask(first.namespace, "127.0.0.1", 2222) == "a"


def test_a_new_daemon_takes_over_without_a_gap(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
    with dial(outside, third.address, 8080) as connection:
        assert read_name(connection) == "a"
        third.call(third.mesh.release())
        assert ask(outside, third.address, 8080) == "a"
        third.new_mesh()
        third.call(third.mesh.apply(swarm.view(third)))
        connection.sendall(b"still here")
        assert read_exactly(connection, 10) == b"still here"
    assert ask(outside, third.address, 8080) == "a"


def test_a_connection_outlives_a_withdrawal_that_no_daemon_saw(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "old", 10)
    with dial(outside, third.address, 8080) as connection:
        assert read_name(connection) == "old"
        third.call(third.mesh.release())
        del swarm.tasks["old"]
        third.new_mesh()
        swarm.run(second, "new", 11)
        for _ in range(2):
            assert spread(outside, third.address) == {"new"}
            third.namespace.links(_forget_cached_neighbours)
            connection.sendall(b"x" * 100_000)
            assert read_exactly(connection, 100_000) == b"x" * 100_000
            third.call(third.mesh.audit())
    shell(third.namespace, "bridge fdb show dev sw-vx | grep -q 02:42:0a:00:00:0a")


def test_ports_change_hands_in_one_step(swarm: Swarm, outside: Namespace) -> None:
    """Two services swap their published ports, while one client of each sends datagrams all along."""
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10, "left")
    swarm.run(second, "b", 11, "right")
    one, two = (Port("tcp", 8080, 80), Port("udp", 5353, 53)), (Port("tcp", 8081, 80), Port("udp", 5354, 53))
    for left, right, answers in ((one, two, "ab"), (two, one, "ba"), (one, two, "ab")):
        swarm.publish(left=left, right=right)
        with outside.socket(socket.SOCK_DGRAM) as client:
            client.bind(("0.0.0.0", 4000))
            for host in (first, second, third):
                assert [ask(outside, host.address, port) for port in (8080, 8081)] == list(answers)
                assert [ask_udp(client, host.address, port) for port in (5353, 5354)] == list(answers)


def test_a_service_has_many_ports_and_its_targets_may_change(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    container = swarm.run(first, "a", 10)
    container.serve("tcp", 81, "another")
    container.serve("udp", 54, "another")
    ports = [Port("tcp", published, 80) for published in range(30000, 30050)]
    swarm.publish(web=(*ports, DNS))
    assert {ask(outside, third.address, port.published) for port in ports} == {"a"}
    with outside.socket(socket.SOCK_DGRAM) as client, third.namespace.socket(socket.SOCK_DGRAM) as local:
        assert ask_udp(client, third.address, 5353) == ask_udp(local, "127.0.0.1", 5353) == "a"
        swarm.publish(web=(Port("tcp", 30000, 81), *ports[1:], Port("udp", 5353, 54)))
        assert ask(outside, third.address, 30000) == "another"
        assert ask(outside, third.address, 30001) == "a"
        assert ask_udp(client, third.address, 5353) == ask_udp(local, "127.0.0.1", 5353) == "another"
    swarm.publish(web=())
    for host in (first, third):
        with pytest.raises(ConnectionRefusedError):
            ask(outside, host.address, 30000)


def test_a_port_at_the_end_of_an_older_connection_is_served(swarm: Swarm, outside: Namespace) -> None:
    """The host itself called somebody, from a port that a service publishes later. Both work."""
    first = swarm.hosts[0]
    swarm.run(first, "a", 10)
    with outside.socket(socket.SOCK_STREAM) as listener, first.namespace.socket(socket.SOCK_STREAM) as caller:
        listener.bind(("0.0.0.0", 7000))
        listener.listen()
        caller.connect(("192.0.2.200", 7000))
        port = caller.getsockname()[1]
        with listener.accept()[0] as called:
            swarm.publish(web=(Port("tcp", port, 80), HTTP))
            assert not first.mesh.blocked
            assert ask(outside, first.address, port) == ask(first.namespace, "127.0.0.1", port) == "a"
            for one, other in ((caller, called), (called, caller)):
                one.sendall(b"still here")
                assert read_exactly(other, 10) == b"still here"


def test_more_ports_than_a_process_has_descriptors(swarm: Swarm, outside: Namespace) -> None:
    first = swarm.hosts[0]
    swarm.run(first, "a", 10)
    with few_descriptors():
        first.call(first.mesh.apply(replace(swarm.view(first), services={
            "web": tuple(Port("tcp", published, 80) for published in range(20000, 22000))
        })))  # fmt: skip
    assert ask(outside, first.address, 20000) == ask(outside, first.address, 21999) == "a"


def test_a_node_gets_another_address(swarm: Swarm, outside: Namespace) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(second, "b", 11)
    first.address = IPv4Address("192.0.2.77")
    shell(first.namespace, "ip addr flush dev eth0; ip addr add 192.0.2.77/24 dev eth0")
    swarm.apply()
    for host in (first, second, third):
        assert spread(outside, host.address) == {"a", "b"}, host.name


@pytest.mark.parametrize("bridged", ["0", "1"])
@pytest.mark.parametrize("strictness", ["1", "2"])
def test_hosts_that_check_where_packets_come_from(
    swarm: Swarm, outside: Namespace, strictness: str, bridged: str
) -> None:
    """rp_filter, and bridge-nf-call-iptables on and off."""
    first, _, third = swarm.hosts
    container = swarm.run(first, "a", 10)
    for namespace in (container.namespace, *(host.namespace for host in swarm.hosts)):
        namespace.run(lambda: check_sources(strictness, bridged))
    for host in swarm.hosts:
        assert ask(outside, host.address, 8080) == ask(host.namespace, "127.0.0.1", 8080) == "a"
    assert ask(container.namespace, first.address, 8080) == ask(container.namespace, third.address, 8080) == "a"


@pytest.mark.parametrize("size_bytes", [1400, 1422, 8000, 60000])
def test_datagrams_of_any_size_arrive(swarm: Swarm, outside: Namespace, size_bytes: int) -> None:
    """Up to what fits the tunnel (MTU 1450), and in fragments. Just above, a client learns the path's MTU first."""
    first, _, third = swarm.hosts
    container = swarm.run(first, "a", 10)
    container.echo(9)
    swarm.publish(web=(Port("udp", 5353, 9),))
    local = "127.0.0.1"
    for namespace, address in (
        (outside, first.address), (outside, third.address), (first.namespace, local), (third.namespace, local),
    ):  # fmt: skip
        with namespace.socket(socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"x" * size_bytes, (str(address), 5353))
            assert len(client.recv(65536)) == size_bytes


def test_backends_that_do_not_answer_are_left_out_until_they_do(swarm: Swarm, outside: Namespace) -> None:
    """The wire loses what one node sends through the tunnel; no manager says a word."""
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(second, "b", 11)
    with outside.socket(socket.SOCK_DGRAM) as client:
        client.bind(("0.0.0.0", 4000))
        while ask_udp(client, third.address, 5353) != "b":
            client.close()
            client = outside.socket(socket.SOCK_DGRAM)
        third.call(third.mesh.glance())
        shell(second.namespace, "nft add table ip cut")
        shell(second.namespace, "nft add chain ip cut out '{ type filter hook output priority 0; }'")
        shell(second.namespace, "nft add rule ip cut out udp dport 4789 drop")
        for _ in range(MISSES + 1):
            third.call(third.mesh.glance())
        assert third.mesh.silent == {INGRESS[11]}
        assert spread(outside, third.address) == {"a"}
        assert ask_udp(client, third.address, 5353) == "a", "a flow to it is led elsewhere"
    shell(second.namespace, "nft delete table ip cut")
    for _ in range(2):
        third.call(third.mesh.glance())
    assert not third.mesh.silent
    assert spread(outside, third.address) == {"a", "b"}


def test_a_node_that_hears_nobody_leaves_nobody_out(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(first, "b", 11)
    third.call(third.mesh.glance())
    shell(third.namespace, "nft add table ip deaf; nft add chain ip deaf in '{ type filter hook input priority 0; }'")
    shell(third.namespace, "nft add rule ip deaf in icmp type echo-reply drop")
    for _ in range(MISSES + 1):
        third.call(third.mesh.glance())
    assert third.mesh.silent == {INGRESS[10], INGRESS[11]}
    assert spread(outside, third.address) == {"a", "b"}
    swarm.run(third, "c", 12)
    assert spread(outside, third.address) == {"c"}, "its own task needs no asking"
    assert spread(outside, first.address) == {"a", "b", "c"}


class Gate:
    """A way into the kernel that lets nobody through until it is opened, as when others hold its locks."""

    def __init__(self, way: Callable[..., Any]) -> None:
        self._way = way
        self.waiting, self._opened = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.waiting.set()
        assert self._opened.wait(30)
        return self._way(*arguments)

    def open(self) -> None:
        self._opened.set()


def test_a_look_that_must_wait_holds_up_no_withdrawal(
    swarm: Swarm, outside: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(second, "b", 11)
    gate = Gate(overlay.devices)
    monkeypatch.setattr(overlay, "devices", gate)
    looks = [third.begin(look) for look in (third.mesh.glance(), third.mesh.audit())]
    assert gate.waiting.wait(30)
    swarm.withdraw("a")
    assert spread(outside, third.address) == {"b"}
    gate.open()
    assert [look.result(30) for look in looks] == [False, False]


def test_a_withdrawal_does_not_wait_for_links(
    swarm: Swarm, outside: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the same view brings a backend that needs new ones."""
    first, second, third = swarm.hosts
    swarm.run(first, "a", 10)
    swarm.run(second, "b", 11)
    swarm.run(second, "c", 12, service="another")
    swarm.tasks["c"] = replace(swarm.tasks["c"], service_id="web")
    del swarm.tasks["a"]
    swarm.tasks["d"] = replace(swarm.tasks["b"], address=INGRESS[13])
    gate = Gate(overlay.change_entries)
    monkeypatch.setattr(overlay, "change_entries", gate)
    applying = third.begin(third.mesh.apply(swarm.view(third)))
    assert gate.waiting.wait(30)
    assert spread(outside, third.address) == {"b", "c"}
    gate.open()
    applying.result(30)


def test_an_outer_packet_is_not_tracked(swarm: Swarm, outside: Namespace) -> None:
    first, _, third = swarm.hosts
    swarm.run(first, "a", 10)
    assert spread(outside, third.address) == {"a"}
    for host in (first, third):
        tracked = host.namespace.run(lambda: Path("/proc/thread-self/net/nf_conntrack").read_text())
        assert "dport=8080 " in tracked or host is first
        assert "dport=4789 " not in tracked      # with the space: port 47892 is another


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
    for container in swarm.containers:
        container.close()
    swarm.containers.clear()
    first.call(first.mesh.apply(replace(swarm.view(first), ingress=None)))
    first.call(first.network.close())
    assert first.link_names() == {"lo", "eth0"}
    assert first.namespace.run(_tables) == set()
    first.restart()


@contextmanager
def few_descriptors() -> Iterator[None]:
    """The process begins with as few as a shell gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def check_sources(strictness: str, bridged: str) -> None:
    for path in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter"):
        path.write_text(strictness)
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(bridged)


def _forget_cached_neighbours(links: Any) -> None:
    bridge = links.link_lookup(ifname="sw-ing")[0]
    for entry in list(links.get_neighbours(ifindex=bridge)):
        links.neigh("del", ifindex=bridge, dst=entry.get_attr("NDA_DST"))


def _tables() -> set[str]:
    rules = NftNetlink()
    try:
        return set(rules.tables())
    finally:
        rules.close()
