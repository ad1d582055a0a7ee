"""What is decided without a kernel: addresses, rule sets, link entries, and the changes between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import Conflict, InvalidArgument, NotSupported, Unavailable
from swarmpy.network import Backend, IngressNetwork, MeshView, Peer, Port, host_rules, mesh_rules
from swarmpy.network.addresses import AddressPool, choose_subnet, mac_for
from swarmpy.network.endpoint import EndpointInfo, EndpointRecord, HostPort
from swarmpy.network.mesh_links import LinkState, entry_changes, remotes
from swarmpy.network.ruleset import Chain, Rule, Ruleset, VerdictMap, change, observed

SUBNET = IPv4Network("10.0.0.0/24")
INGRESS = IngressNetwork(SUBNET, 4096, IPv4Interface("10.0.0.2/24"), IPv4Address("192.0.2.1"))


def view(tasks: dict[str, Backend], services: Mapping[str, tuple[Port, ...]]) -> MeshView:
    peers = {f"n{n}": Peer(IPv4Address(f"192.0.2.{n}"), SUBNET[n + 1]) for n in (1, 2, 3)}
    return MeshView("n1", INGRESS, peers, services, tasks)


services = st.dictionaries(
    st.sampled_from(["s1", "s2", "s3"]),
    st.builds(
        lambda protocol, published: (Port(protocol, published, 80),),
        st.sampled_from(["tcp", "udp"]),
        st.integers(8080, 8083),
    ),
)
tasks = st.dictionaries(
    st.sampled_from([f"t{n}" for n in range(8)]),
    st.builds(
        lambda service, node, address: Backend(service, node, SUBNET[address]),
        st.sampled_from(["s1", "s2", "s3"]),
        st.sampled_from(["n1", "n2", "n3", "unknown"]),
        st.integers(10, 20),
    ),
)
views = st.builds(view, tasks, services)


class Table:
    """The little of nftables that the changes rely on: each command must be possible when it comes."""

    def __init__(self) -> None:
        self.exists = False
        self.chains: dict[str, list[str]] = {}
        self.hooks: dict[str, tuple[str, str, int]] = {}
        self.maps: dict[str, dict[Any, str]] = {}

    def run(self, commands: list[dict[str, Any]]) -> None:
        for command in commands:
            ((verb, body),) = command.items()
            ((noun, fields),) = body.items()
            getattr(self, f"{verb}_{noun}")(fields)

    def add_table(self, fields: dict[str, Any]) -> None:
        self.exists = True

    def delete_table(self, fields: dict[str, Any]) -> None:
        assert self.exists
        self.__init__()  # type: ignore[misc]  # a table made anew is an empty one

    def add_chain(self, fields: dict[str, Any]) -> None:
        assert self.exists and fields["name"] not in self.chains
        self.chains[fields["name"]] = []
        if "hook" in fields:
            self.hooks[fields["name"]] = (fields["type"], fields["hook"], fields["prio"])

    def flush_chain(self, fields: dict[str, Any]) -> None:
        self.chains[fields["name"]].clear()

    def delete_chain(self, fields: dict[str, Any]) -> None:
        assert not any(fields["name"] in elements.values() for elements in self.maps.values()), "chain in use"
        assert not self.chains.pop(fields["name"]), "chain not empty"

    def add_rule(self, fields: dict[str, Any]) -> None:
        for name in ("published", "refused", "published-on"):
            assert f'"@{name}"' not in json.dumps(fields) or name in self.maps
        self.chains[fields["chain"]].append(fields["comment"])

    def add_map(self, fields: dict[str, Any]) -> None:
        assert fields["name"] not in self.maps
        self.maps[fields["name"]] = {}

    def delete_map(self, fields: dict[str, Any]) -> None:
        del self.maps[fields["name"]]

    def add_element(self, fields: dict[str, Any]) -> None:
        for key, verdict in fields["elem"]:
            assert verdict["goto"]["target"] in self.chains
            assert tuple(key["concat"]) not in self.maps[fields["name"]]
            self.maps[fields["name"]][tuple(key["concat"])] = verdict["goto"]["target"]

    def delete_element(self, fields: dict[str, Any]) -> None:
        for key in fields["elem"]:
            del self.maps[fields["name"]][tuple(key["concat"])]

    def agrees_with(self, wanted: Ruleset | None) -> bool:
        if wanted is None:
            return not self.exists
        rules = {name: [rule.digest for rule in chain.rules] for name, chain in wanted.chains.items()}
        return self.chains == rules and self.maps == {name: dict(m.elements) for name, m in wanted.maps.items()}


@given(st.lists(views | st.just(MeshView("n1", None)), max_size=4))
def test_changes_lead_from_any_view_to_any_other(steps: list[MeshView]) -> None:
    table, had = Table(), None
    for step in steps:
        wanted = mesh_rules.render("sw-mesh", "sw-ing", step)
        table.run(change(had, wanted))
        assert table.agrees_with(wanted)
        assert change(wanted, wanted) == []
        had = wanted


@given(views, views)
def test_entry_changes_lead_from_any_view_to_any_other(old: MeshView, new: MeshView) -> None:
    had, wanted = LinkState.of(INGRESS, remotes(old)), LinkState.of(INGRESS, remotes(new))
    changes = entry_changes(had, wanted)
    forwarding, neighbours = dict(had.forwarding), dict(had.neighbours)
    forwarding.update(changes.set_forwarding)
    neighbours.update(changes.set_neighbours)
    for mac, _ in changes.drop_forwarding:
        del forwarding[mac]
    for address, _ in changes.drop_neighbours:
        del neighbours[address]
    assert set(forwarding.items()) == wanted.forwarding
    assert set(neighbours.items()) == wanted.neighbours
    assert (had.bridged | set(changes.set_bridged)) - set(changes.drop_bridged) == wanted.bridged


def test_a_withdrawal_touches_one_chain() -> None:
    web, dns = {"web": (Port("tcp", 8080, 80),)}, {"dns": (Port("udp", 53, 53),)}
    before = {"a": Backend("web", "n1", SUBNET[10]), "b": Backend("web", "n2", SUBNET[11])}
    old = mesh_rules.render("t", "br", view(before, web | dns))
    new = mesh_rules.render("t", "br", view({"a": before["a"]}, web | dns))
    verbs = [(next(iter(c)), next(iter(c[next(iter(c))]))) for c in change(old, new)]
    assert verbs == [("flush", "chain"), ("add", "rule")]


def test_backends_out_of_reach_get_no_connections() -> None:
    tasks = {"a": Backend("web", "n1", SUBNET[10]), "b": Backend("web", "lost", SUBNET[11])}
    assert mesh_rules.backends_of(view(tasks, {})) == {"web": [SUBNET[10]]}


def test_a_table_is_read_back_from_its_listing() -> None:
    listed: list[dict[str, Any]] = [
        {"metainfo": {}},
        {"table": {"name": "t"}},
        {"map": {"name": "m", "type": ["inet_proto", "inet_service"], "map": "verdict",
                 "elem": [[{"concat": ["tcp", 80]}, {"goto": {"target": "c"}}]]}},
        {"map": {"name": "one", "type": "mark", "map": "verdict", "elem": [[1, {"accept": None}]]}},
        {"chain": {"name": "b", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}},
        {"chain": {"name": "c"}},
        {"rule": {"chain": "c", "comment": "sw:1"}},
        {"rule": {"chain": "c"}},
    ]  # fmt: skip
    read = observed("t", listed)
    assert read.chains["c"] == Chain((Rule("sw:1"), Rule("")))
    assert read.maps["m"] == VerdictMap(("inet_proto", "inet_service"), {("tcp", 80): "c"})
    assert read.maps["one"].elements == {(1,): ""}
    assert read.chains["b"].hook is not None


def test_a_base_chain_that_was_moved_makes_the_table_anew() -> None:
    wanted = mesh_rules.render("t", "br", view({}, {}))
    assert wanted is not None
    moved = Ruleset("t", {**wanted.chains, "forward": Chain()}, wanted.maps)
    assert "table" in change(moved, wanted)[0]["delete"]


def test_host_ports_on_one_address_and_on_all() -> None:
    end = EndpointInfo("bridge", "eth0", "172.17.0.2", 16, "02:42:ac:11:00:02", 1500, "swv1", "172.17.0.1")
    ports = (HostPort("tcp", 80, 8080), HostPort("tcp", 80, 8080, "192.0.2.1"))
    record = EndpointRecord("c" * 64, (end,), ports)
    table = host_rules.render("t", "sw0", IPv4Network("172.17.0.0/16"), [record])
    assert table.maps["published"].elements == {("tcp", 8080): "tcp-8080"}
    assert table.maps["published-on"].elements == {("192.0.2.1", "tcp", 8080): "tcp-8080-192-0-2-1"}
    assert EndpointRecord.from_json(record.to_json()) == record
    assert record.without("bridge") == EndpointRecord("c" * 64)


def test_subnets_and_addresses() -> None:
    pools = [IPv4Network("172.17.0.0/16"), IPv4Network("172.18.0.0/16")]
    in_use = [IPv4Network("0.0.0.0/0"), IPv4Network("172.17.5.0/24")]
    assert choose_subnet(pools, in_use) == pools[1]
    with pytest.raises(Unavailable, match="no subnet is free"):
        choose_subnet(pools[:1], in_use)
    assert mac_for(IPv4Address("10.0.0.255")) == "02:42:0a:00:00:ff"


@given(st.lists(st.integers(0, 5), max_size=40))
def test_no_address_is_held_twice(steps: list[int]) -> None:
    pool = AddressPool(IPv4Network("10.1.0.0/29"))
    held: list[IPv4Address] = []
    for step in steps:
        if step == 0 and held:
            pool.give_back(held.pop(0))
        elif len(held) < 5:
            held.append(pool.take())
        else:
            with pytest.raises(Unavailable):
                pool.take()
        assert len(set(held)) == len(held)
        assert all(address in pool.subnet and address != pool.gateway for address in held)


def test_addresses_wanted_by_name() -> None:
    pool = AddressPool(IPv4Network("10.1.0.0/24"))
    assert pool.take(IPv4Address("10.1.0.7")) == IPv4Address("10.1.0.7")
    with pytest.raises(Conflict):
        pool.take(IPv4Address("10.1.0.7"))
    for wrong in ("10.1.0.1", "10.1.0.255", "10.2.0.1"):
        with pytest.raises(InvalidArgument):
            pool.take(IPv4Address(wrong))


def test_values_refuse_to_be_built_wrong() -> None:
    with pytest.raises(NotSupported, match="sctp"):
        Port("sctp", 80, 80)
    with pytest.raises(InvalidArgument):
        Port("tcp", 0, 80)
    with pytest.raises(InvalidArgument):
        HostPort("tcp", 80, 70000)
    with pytest.raises(InvalidArgument):
        HostPort("tcp", 80, 80, "::1")
    with pytest.raises(InvalidArgument):
        IngressNetwork(SUBNET, 4096, IPv4Interface("10.9.0.2/24"), IPv4Address("192.0.2.1"))
