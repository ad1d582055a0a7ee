"""The default bridge and host ports, with real namespaces, servers and clients."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from swarmpy.errors import Conflict, InvalidArgument, NotFound, Unavailable
from swarmpy.network import HostNetwork, HostPort
from swarmpy.network.nftables import Nftables
from tests.network.topology import Host, Namespace, ask, ask_udp, dial, shell

pytestmark = pytest.mark.root


def test_a_container_gets_address_route_and_loopback(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    container = host.container("c", None)
    end = container.endpoint
    assert (end.interface, end.gateway, end.prefix_len, end.mtu) == ("eth0", str(host.network.gateway), 16, 1500)
    assert end.mac.startswith("02:42:")
    with outside.socket(socket.SOCK_STREAM) as listener:
        listener.bind(("0.0.0.0", 7000))
        listener.listen()
        with dial(container.namespace, "192.0.2.200", 7000), listener.accept()[0] as accepted:
            assert accepted.getpeername()[0] == str(host.address)
    up = container.namespace.links(lambda links: [link.get_attr("IFLA_OPERSTATE") for link in links.get_links()])
    assert "DOWN" not in up
    container.close()
    assert not {name for name in host.link_names() if name.startswith("swv")}


def test_host_ports_answer_from_everywhere(hosts: list[Host], outside: Namespace) -> None:
    host, other, _ = hosts
    container, neighbour = host.container("c", None), host.container("n", None)
    container.serve("tcp", 80)
    container.serve("udp", 53)
    wanted = [HostPort("tcp", 80, 8080), HostPort("udp", 53, 5353), HostPort("tcp", 80, 8081, str(host.address))]
    assert host.call(host.network.publish(container.id, wanted)) == tuple(wanted)
    for namespace, address in (
        (outside, host.address),
        (other.namespace, host.address),
        (host.namespace, host.address),
        (host.namespace, "127.0.0.1"),
        (neighbour.namespace, host.address),
        (container.namespace, host.address),
    ):
        assert ask(namespace, address, 8080) == "c"
        with namespace.socket(socket.SOCK_DGRAM) as client:
            client.connect((str(address), 5353))
            assert ask_udp(client, address, 5353) == "c"
    assert ask(outside, host.address, 8081) == "c"
    with pytest.raises(ConnectionRefusedError):
        ask(host.namespace, "127.0.0.1", 8081)
    container.close()
    with pytest.raises(ConnectionRefusedError):
        ask(outside, host.address, 8080)
    neighbour.close()


def test_a_container_port_that_is_not_published_is_closed(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    container = host.container("c", None)
    container.serve("tcp", 80)
    assert ask(host.namespace, container.endpoint.ip, 80) == "c"
    outside.links(lambda links: links.route("add", dst=str(host.network.subnet), gateway=str(host.address)))
    with outside.socket(socket.SOCK_STREAM) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.connect((container.endpoint.ip, 80))
    container.close()


def test_a_port_in_use_is_refused_and_nothing_changes(hosts: list[Host]) -> None:
    host = hosts[0]
    first, second = host.container("a", None), host.container("b", None)
    host.call(host.network.publish(first.id, [HostPort("tcp", 80, 8080)]))
    with pytest.raises(Conflict, match="8080/tcp is already in use"):
        host.call(host.network.publish(second.id, [HostPort("tcp", 80, 8082), HostPort("tcp", 80, 8080)]))
    assert host.network.published(second.id) == ()
    with host.namespace.socket(socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 8082))
        listener.listen()
        with pytest.raises(Conflict, match="8082"):
            host.call(host.network.publish(second.id, [HostPort("tcp", 80, 8082)]))
    (chosen,) = host.call(host.network.publish(second.id, [HostPort("tcp", 80)]))
    assert chosen.host_port > 0
    # The kernel refuses a process of the host what is claimed.
    with host.namespace.socket(socket.SOCK_STREAM) as listener, pytest.raises(OSError, match="in use"):
        listener.bind(("0.0.0.0", chosen.host_port))
    first.close()
    second.close()


def test_refusals_name_the_cause_and_leave_nothing(hosts: list[Host]) -> None:
    host = hosts[0]
    container = host.container("c", None)
    with pytest.raises(Conflict, match="already connected"):
        host.call(host.network.connect(container.id, container.namespace.path, "bridge"))
    with pytest.raises(Unavailable, match="sw-ing is not up"):
        host.call(host.network.connect(container.id, container.namespace.path, "ingress", ip="10.0.0.9/24"))
    with pytest.raises(NotFound, match="nowhere"):
        host.call(host.network.connect(container.id, container.namespace.path, "nowhere"))
    with pytest.raises(Conflict, match="has ended"):
        host.call(host.network.connect("f" * 64, Path("/proc/0/ns/net"), "bridge"))
    with pytest.raises(Conflict, match="already in use"):
        host.call(host.network.connect("e" * 64, container.namespace.path, "bridge", ip=container.endpoint.ip))
    with pytest.raises(InvalidArgument):
        host.call(host.network.connect("e" * 64, container.namespace.path, "bridge", ip="10.9.9.9"))
    with pytest.raises(NotFound, match="not on network bridge"):
        host.call(host.network.publish("e" * 64, [HostPort("tcp", 80)]))
    assert [end.network for end in host.network.endpoints(container.id)] == ["bridge"]
    assert host.network.endpoints("e" * 64) == ()
    container.close()


def test_containers_that_go_together_leave_nothing_and_their_names_and_addresses_are_free_at_once(
    hosts: list[Host],
) -> None:
    host = hosts[0]
    containers = [host.container(f"c{number}", None) for number in range(5)]
    first, second = containers[:2]

    async def replace_all() -> None:
        network = host.network
        await asyncio.gather(*(network.disconnect(container.id) for container in containers))
        back = await network.connect(first.id, first.namespace.path, "bridge", ip=second.endpoint.ip)
        assert back.ip == second.endpoint.ip
        other = await network.connect(second.id, second.namespace.path, "bridge")
        assert other.ip not in (back.ip, first.endpoint.ip)  # the next one that was never taken

    host.call(replace_all())
    assert first.record.exists() and second.record.exists()
    assert not any(container.record.exists() for container in containers[2:])
    assert len([name for name in host.link_names() if name.startswith("swv")]) == 2
    for container in containers:
        container.close()
    assert not {name for name in host.link_names() if name.startswith("swv")}


def test_a_daemon_that_ends_waits_for_links_on_their_way_out(hosts: list[Host]) -> None:
    host = hosts[0]
    containers = [host.container(name, None) for name in ("one", "two")]

    async def leave_and_close() -> None:
        for container in containers:
            await host.network.disconnect(container.id)
        await host.network.close()

    host.call(leave_and_close())
    assert not any(container.record.exists() for container in containers)
    assert not {name for name in host.link_names() if name.startswith("sw")}
    for container in containers:
        container.namespace.close()
    host.restart()


def test_a_restarted_daemon_keeps_the_living_and_drops_the_dead(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    living, dead = host.container("living", None), host.container("dead", None)
    living.serve("tcp", 80)
    dead.serve("tcp", 80)
    host.call(host.network.publish(living.id, [HostPort("tcp", 80, 8080)]))
    host.call(host.network.publish(dead.id, [HostPort("tcp", 80, 8081)]))
    host.call(host.network.close())
    assert ask(outside, host.address, 8080) == "living"
    host.restart()
    host.call(host.network.repair([living.id]))
    assert ask(outside, host.address, 8080) == "living"
    with pytest.raises(ConnectionRefusedError):
        ask(outside, host.address, 8081)
    assert host.network.endpoints(living.id) == (living.endpoint,)
    third = host.container("third", None)
    assert third.endpoint.ip not in (living.endpoint.ip, dead.endpoint.ip)
    assert len([name for name in host.link_names() if name.startswith("swv")]) == 2
    for container in (living, dead, third):
        container.close()


def test_udp_clients_follow_the_port_to_its_next_container(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    old, new = host.container("old", None), host.container("new", None)
    with outside.socket(socket.SOCK_DGRAM) as client:
        for container in (old, new):
            container.serve("udp", 53)
            host.call(host.network.publish(container.id, [HostPort("udp", 53, 5353)]))
            assert ask_udp(client, host.address, 5353) == container.name
            host.call(host.network.publish(container.id, []))
    old.close()
    new.close()


def test_rules_that_others_deleted_come_back_with_the_next_change(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    container = host.container("c", None)
    container.serve("tcp", 80)
    host.namespace.run(_delete_table)
    host.call(host.network.publish(container.id, [HostPort("tcp", 80, 8080)]))
    assert ask(outside, host.address, 8080) == "c"
    container.close()


def test_a_firewall_that_forwards_nothing_is_named(hosts: list[Host], caplog: pytest.LogCaptureFixture) -> None:
    host = hosts[0]
    shell(host.namespace, "nft add table inet wall")
    shell(host.namespace, "nft add chain inet wall through '{ type filter hook forward priority 0; policy drop; }'")
    host.call(host.network.close())
    host.restart()
    assert "chain wall through drops what this host forwards" in caplog.text


def test_a_record_is_whole_or_absent(hosts: list[Host]) -> None:
    host = hosts[0]
    container = host.container("c", None)
    (path,) = (host.state_dir / "endpoints").glob("*")
    assert json.loads(path.read_text())["container_id"] == container.id
    container.close()
    assert list((host.state_dir / "endpoints").glob("*")) == []


def test_the_bridge_avoids_routes_of_the_host_and_prefixes_do_not_clash(hosts: list[Host], tmp_path: Path) -> None:
    host = hosts[0]

    async def another(prefix: str) -> str:
        network = HostNetwork(prefix, tmp_path / prefix)
        try:
            await network.start()
            return str(network.subnet)
        finally:
            await network.close()

    assert host.call(another("other")) == "172.18.0.0/16"
    with pytest.raises(Conflict, match="--network-prefix"):
        host.call(another("sw"))


def test_the_administrators_chain_filters_and_stays(hosts: list[Host], outside: Namespace) -> None:
    host = hosts[0]
    container = host.container("c", None)
    container.serve("tcp", 80)
    host.call(host.network.publish(container.id, [HostPort("tcp", 80, 8080)]))
    host.namespace.run(_refuse_port_8080)
    with pytest.raises(ConnectionRefusedError):
        ask(outside, host.address, 8080)
    host.call(host.network.close())
    host.restart()
    with pytest.raises(ConnectionRefusedError):
        ask(outside, host.address, 8080)
    container.close()


def _refuse_port_8080() -> None:
    original_port = {"ct": {"key": "proto-dst", "dir": "original"}}
    expressions = [
        {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
        {"match": {"op": "==", "left": original_port, "right": 8080}},
        {"reject": {"type": "tcp reset"}},
    ]
    nftables = Nftables()
    rule = {"family": "ip", "table": "sw-user", "chain": "forward", "expr": expressions}
    nftables.run([{"add": {"rule": rule}}])
    nftables.close()


def _delete_table() -> None:
    nftables = Nftables()
    nftables.run([{"delete": {"table": {"family": "ip", "name": "sw-host"}}}])
    nftables.close()
