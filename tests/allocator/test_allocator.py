"""Addresses and endpoints on their own; the stage as a whole is tested with the others in tests/orchestrator."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.allocator.addresses import AddressPool
from swarmpy.manager.allocator.allocator import ingress_network
from swarmpy.manager.allocator.endpoints import DYNAMIC_PORTS, endpoint_for, is_allocated, uses_ingress
from swarmpy.rpc.types_pb2 import Cluster, PortConfig, Service


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60))
def test_an_address_has_one_owner_and_a_freed_one_comes_last(steps: list[tuple[str, bool]]) -> None:
    pool = AddressPool("10.1.2.0/29")
    owners: dict[str, str] = {}
    for owner, takes in steps:
        if not takes:
            pool.free(owner)
            owners.pop(owner, None)
            continue
        address = pool.take(owner)
        if address is None:
            assert len(owners) == pool.size == 5 and owner not in owners
            continue
        assert owners.setdefault(owner, address) == address
        assert ip_interface(address).ip in ip_network("10.1.2.0/29")
        assert address not in ("10.1.2.0/29", "10.1.2.1/29", "10.1.2.7/29")
        assert len(set(owners.values())) == len(owners)
        assert pool.of(owner) == address


def test_addresses_go_round_the_subnet() -> None:
    pool = AddressPool("10.0.0.0/24")
    given_out = []
    for _ in range(253):
        given_out.append(pool.take("x"))
        pool.free("x")
    assert len(set(given_out)) == 253
    assert given_out[0] == "10.0.0.2/24" and given_out[-1] == "10.0.0.254/24"
    assert pool.take("y") == "10.0.0.2/24"
    pool.resume_after("10.0.0.254/24")
    assert pool.take("z") == "10.0.0.3/24"


def test_the_ingress_network_is_the_first_subnet_of_the_first_pool() -> None:
    network = ingress_network(Cluster(), "id", None)
    assert network is not None
    assert (network.spec.annotations.name, network.spec.ingress, network.vni) == ("ingress", True, 4096)
    assert (network.ipam[0].subnet, network.ipam[0].gateway) == ("10.0.0.0/24", "10.0.0.1")
    wide = ingress_network(Cluster(default_addr_pool=["172.30.0.0/16"], subnet_size=20), "id", None)
    assert wide is not None and wide.ipam[0].subnet == "172.30.0.0/20"
    assert ingress_network(Cluster(), "id", network) is None


def service_with(*ports: PortConfig) -> Service:
    service = Service(id="s")
    service.spec.endpoint.ports.extend(ports)
    return service


def test_an_endpoint_fills_in_open_ports_and_keeps_them() -> None:
    open_port, host_port = PortConfig(target_port=80), PortConfig(target_port=81, publish_mode=PortConfig.HOST)
    service = service_with(open_port, PortConfig(target_port=82, published_port=30001), host_port)
    assert not is_allocated(service)
    endpoint = endpoint_for(service, lambda protocol, number: number == 30000)
    assert endpoint is not None
    assert [port.published_port for port in endpoint.ports] == [30002, 30001, 0]
    service.endpoint.CopyFrom(endpoint)
    assert is_allocated(service) and uses_ingress(service)
    service.spec.endpoint.ports.insert(0, PortConfig(target_port=90))
    again = endpoint_for(service, lambda protocol, number: number == 30000)
    assert again is not None
    assert [port.published_port for port in again.ports][1:] == [30002, 30001, 0]
    assert len({port.published_port for port in again.ports}) == 4
    service.spec.endpoint.ClearField("ports")
    empty = endpoint_for(service, lambda protocol, number: False)
    assert empty is not None and not empty.ports
    assert not uses_ingress(Service())


def test_dynamic_ports_can_be_used_up() -> None:
    assert endpoint_for(service_with(PortConfig(target_port=80)), lambda protocol, number: True) is None
    last = DYNAMIC_PORTS[-1]
    endpoint = endpoint_for(service_with(PortConfig(target_port=80)), lambda protocol, number: number != last)
    assert endpoint is not None and endpoint.ports[0].published_port == 32767
