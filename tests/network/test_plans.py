"""What is decided without a kernel: addresses, rule sets, link entries, and the changes between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import Conflict, InvalidArgument, NotSupported, Unavailable
from swarmpy.network import Backend, IngressNetwork, MeshView, Peer, Port, host_rules
from swarmpy.network.addresses import AddressPool, choose_subnet, mac_for
from swarmpy.network.endpoint import EndpointInfo, EndpointRecord, HostPort
from swarmpy.network.mesh_links import LinkState, Remote, entry_changes
from swarmpy.network.mesh_rules import PublishedKey, Route, render, reseat
from swarmpy.network.reachability import ASKED, MISSES, Reachability
from swarmpy.network.ruleset import Chain, NamedSet, Rule, Ruleset, change, comments, observed
from swarmpy.network.view_index import ViewIndex

SUBNET = IPv4Network("10.0.0.0/24")
INGRESS = IngressNetwork(SUBNET, 4096, IPv4Interface("10.0.0.2/24"), IPv4Address("192.0.2.1"))


def view(
    tasks: Mapping[str, Backend], services: Mapping[str, tuple[Port, ...]], nodes: Iterable[int] = (1, 2, 3),
    moved: int = 0,
) -> MeshView:  # fmt: skip
    """As node n1 sees it; `moved` is a node whose VTEP is another one."""
    peers = {f"n{n}": Peer(IPv4Address(f"192.0.2.{n + 100 * (n == moved)}"), SUBNET[n + 1]) for n in nodes}
    return MeshView("n1", INGRESS, peers, services, tasks)


port_values = st.builds(Port, st.sampled_from(["tcp", "udp"]), st.integers(8080, 8083), st.integers(80, 81))
services = st.dictionaries(st.sampled_from(["s1", "s2", "s3"]), st.lists(port_values, max_size=2).map(tuple))
tasks = st.dictionaries(
    st.sampled_from([f"t{n}" for n in range(8)]),
    st.builds(
        lambda service, node, address: Backend(service, node, SUBNET[address]),
        st.sampled_from(["s1", "s2", "s3"]),
        st.sampled_from(["n1", "n2", "n3", "unknown"]),
        st.integers(10, 20),
    ),
)
views = st.builds(view, tasks, services, st.sets(st.integers(1, 3)), st.integers(1, 3))

ports = st.tuples(st.sampled_from(["tcp", "udp"]), st.integers(8080, 8085))
addresses = st.lists(st.integers(10, 16).map(SUBNET.__getitem__), unique=True, max_size=5).map(tuple)
routes = st.dictionaries(ports, st.builds(Route, st.integers(80, 82), addresses))


class Table:
    """The little of nftables that the changes rely on: each command must be possible when it comes."""

    def __init__(self) -> None:
        self.exists = False
        self.chains: dict[str, list[str]] = {}
        self.texts: dict[str, str] = {}
        self.sets: dict[str, dict[Any, Any]] = {}

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
        self.texts[fields["name"]] = ""

    def flush_chain(self, fields: dict[str, Any]) -> None:
        self.chains[fields["name"]].clear()
        self.texts[fields["name"]] = ""

    def delete_chain(self, fields: dict[str, Any]) -> None:
        assert f'"target": "{fields["name"]}"' not in json.dumps(self.texts), "chain in use"
        assert not self.chains.pop(fields["name"]), "chain not empty"
        del self.texts[fields["name"]]

    def add_rule(self, fields: dict[str, Any]) -> None:
        text = json.dumps(fields["expr"])
        assert set(re.findall(r'"@([^"]+)"', text)) <= self.sets.keys()
        assert set(re.findall(r'"target": "([^"]+)"', text)) <= self.chains.keys()
        self.chains[fields["chain"]].append(fields["comment"])
        self.texts[fields["chain"]] += text

    def add_map(self, fields: dict[str, Any]) -> None:
        assert fields["name"] not in self.sets
        self.sets[fields["name"]] = {}

    add_set = add_map

    def delete_map(self, fields: dict[str, Any]) -> None:
        assert f'"@{fields["name"]}"' not in "".join(self.texts.values()), "map in use"
        del self.sets[fields["name"]]

    delete_set = delete_map

    def add_element(self, fields: dict[str, Any]) -> None:
        for item in fields["elem"]:
            key, value = item if isinstance(item, list) else (item, None)
            assert tuple(key["concat"]) not in self.sets[fields["name"]]
            self.sets[fields["name"]][tuple(key["concat"])] = value

    def delete_element(self, fields: dict[str, Any]) -> None:
        for key in fields["elem"]:
            del self.sets[fields["name"]][tuple(key["concat"])]

    def agrees_with(self, wanted: Ruleset | None) -> bool:
        if wanted is None:
            return not self.exists
        rules = {name: [rule.digest for rule in chain.rules] for name, chain in wanted.chains.items()}
        return self.chains == rules and self.sets == {name: dict(s.elements) for name, s in wanted.sets.items()}


def table_of(routes: Mapping[PublishedKey, Route], others: Iterable[int] = ()) -> Ruleset:
    return render("t", "br", INGRESS, [*others, *(len(route.backends) for route in routes.values())], routes)


@given(st.lists(st.none() | routes, max_size=4))
def test_changes_lead_from_any_table_to_any_other(steps: list[dict[PublishedKey, Route] | None]) -> None:
    table, had = Table(), None
    for step in steps:
        wanted = None if step is None else table_of(step)
        table.run(change(had, wanted))
        assert table.agrees_with(wanted)
        assert change(wanted, wanted) == []
        had = wanted


@given(routes, routes)
def test_a_part_of_the_table_is_changed_alone(old: dict[PublishedKey, Route], new: dict[PublishedKey, Route]) -> None:
    """Only what differs is given to `change`, and the whole table comes out right."""
    table = Table()
    table.run(change(None, table_of(old)))
    differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    before, after = ({key: found[key] for key in differing & found.keys()} for found in (old, new))
    sizes = [[len(route.backends) for route in found.values()] for found in (old, new)]
    table.run(change(table_of(before, sizes[0]), table_of(after, sizes[1])))
    assert table.agrees_with(table_of(new))


@given(addresses, addresses)
def test_backends_keep_their_seats(seated: tuple[IPv4Address, ...], wanted: tuple[IPv4Address, ...]) -> None:
    seats = reseat(seated, set(wanted))
    assert sorted(seats) == sorted(wanted)
    moved = sum(1 for before, after in zip(seated, seats, strict=False) if before != after)
    assert moved <= len(set(seated) - set(wanted)), "only the seats of those that left are taken by others"


def remotes(view: MeshView) -> dict[IPv4Address, IPv4Address]:
    """Address to VTEP, found the slow way."""
    elsewhere = {node_id: peer for node_id, peer in view.peers.items() if node_id != view.node_id}
    where: dict[IPv4Address, IPv4Address | None] = {
        peer.ingress: peer.vtep for _, peer in sorted(elsewhere.items(), reverse=True)
    }
    for _, task in sorted(view.tasks.items()):
        if task.node_id == view.node_id:
            where.setdefault(task.address, None)
        elif task.node_id in elsewhere:
            where.setdefault(task.address, elsewhere[task.node_id].vtep)
    return {address: vtep for address, vtep in where.items() if vtep is not None}


def reachable(view: MeshView) -> dict[str, set[IPv4Address]]:
    """Service to the addresses of its backends, found the slow way."""
    found: dict[str, set[IPv4Address]] = {}
    for task in view.tasks.values():
        if task.node_id == view.node_id or task.node_id in view.peers:
            found.setdefault(task.service_id, set()).add(task.address)
    return found


def published(view: MeshView) -> dict[PublishedKey, tuple[str, Port]]:
    ports: dict[PublishedKey, tuple[str, Port]] = {}
    for service_id in sorted(view.services):
        for port in view.services[service_id]:
            ports.setdefault((port.protocol, port.published), (service_id, port))
    return ports


def led(view: MeshView) -> dict[PublishedKey, tuple[int, frozenset[IPv4Address]]]:
    found = reachable(view)
    return {
        key: (port.target, frozenset(found.get(service_id, ()))) for key, (service_id, port) in published(view).items()
    }


@given(st.lists(views | st.just(MeshView("", None)), max_size=5))
def test_the_index_says_what_a_look_at_the_whole_view_says(steps: list[MeshView]) -> None:
    index, before = ViewIndex(), MeshView("", None)
    for step in steps:
        touched = index.move(step)
        assert {key: index.port(key) for key in index.published()} == published(step)
        backends = reachable(step)
        assert {name: index.backends(name) for name in ("s1", "s2", "s3") if index.backends(name)} == backends
        where = remotes(step)
        assert {address: vtep for address in index.addresses() if (vtep := index.vtep(address))} == where
        for key, (service_id, _) in published(step).items():
            assert all(key in index.ports_to(address) for address in backends.get(service_id, ()))
        remote_tasks = {task.address for task in step.tasks.values() if task.node_id in step.peers} & where.keys()
        own = {peer.ingress for peer in step.peers.values()}
        assert {address for address in where if index.is_remote_backend(address)} - own == remote_tasks - own

        old, new = led(before), led(step)
        assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} <= touched.ports
        had = remotes(before)
        assert {a for a in had.keys() | where.keys() if had.get(a) != where.get(a)} <= touched.addresses
        for address, left in touched.left.items():
            assert left.vtep == had.get(address, left.vtep) and not index.holds(address)
        before = step


def test_the_index_touches_what_changed_and_nothing_else() -> None:
    crowd = {f"s{n}": (Port("tcp", 1000 + n, 80),) for n in range(100)}
    tasks = {f"t{n}": Backend(f"s{n}", "n2", SUBNET[n + 20]) for n in range(100)}
    index = ViewIndex()
    assert len(index.move(view(tasks, crowd)).ports) == 100
    assert not index.move(view(dict(tasks), dict(crowd))).ports
    del tasks["t7"]
    touched = index.move(view(tasks, crowd))
    assert (touched.ports, touched.addresses) == ({("tcp", 1007)}, {SUBNET[27]})
    assert touched.left[SUBNET[27]].ports == {("tcp", 1007)}


@given(views, views)
def test_entry_changes_lead_from_any_view_to_any_other(old: MeshView, new: MeshView) -> None:
    had, wanted = (LinkState.of(Remote(*item) for item in remotes(each).items()) for each in (old, new))
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


def test_a_change_costs_the_same_beside_a_few_and_beside_thousands() -> None:
    """Three backends become two: no rule is written, and as many elements as without the others."""
    old, new = Route(80, (SUBNET[10], SUBNET[11], SUBNET[12])), Route(80, (SUBNET[10], SUBNET[11]))
    key = ("tcp", 8080)
    few, many = (
        change(table_of({key: old}, others), table_of({key: new}, others)) for others in ((2, 3), (2, 3) * 5000)
    )
    assert few == many
    assert sorted((verb, noun) for command in many for verb, nouns in command.items() for noun in nouns) == [
        ("add", "element"), ("delete", "element"), ("delete", "element")
    ]  # fmt: skip


def test_silence_is_judged_by_questions_left_unanswered() -> None:
    reachability = Reachability()
    here, there = SUBNET[10], SUBNET[11]
    for address in (here, there):
        reachability.watch(address)
    assert set(reachability.round([])) == {here, there}
    for _ in range(MISSES):
        assert reachability.answers(there)
        assert set(reachability.round([here])) == {here, there}
    assert reachability.silent == {there}
    reachability.round([here, there])
    assert not reachability.silent
    for _ in range(MISSES):
        reachability.round([here])
    reachability.forget(there)
    assert not reachability.silent and reachability.round([here]) == (here,)


def test_a_round_asks_no_more_than_its_share_and_forgets_nobody() -> None:
    reachability = Reachability()
    backends = {IPv4Address("10.1.0.0") + n for n in range(5 * ASKED)}
    for address in backends:
        reachability.watch(address)
    asked: list[IPv4Address] = []
    for _ in range(12):
        answering = reachability.round(asked[-ASKED:])
        assert len(answering) <= ASKED
        asked += answering
    assert set(asked) == backends
    assert not reachability.silent


def test_a_table_is_read_back_from_its_listing() -> None:
    listed: list[dict[str, Any]] = [
        {"metainfo": {}},
        {"table": {"name": "t"}},
        {"map": {"name": "m", "type": ["inet_proto", "inet_service"], "map": "ipv4_addr",
                 "elem": [[{"concat": ["tcp", 80]}, "10.0.0.5"]]}},
        {"map": {"name": "one", "type": "mark", "map": "verdict", "elem": [[1, {"accept": None}]]}},
        {"set": {"name": "s", "type": ["inet_proto", "inet_service"], "elem": [{"concat": ["udp", 53]}]}},
        {"set": {"name": "empty", "type": ["inet_proto", "inet_service"]}},
        {"chain": {"name": "b", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}},
        {"chain": {"name": "c"}},
        {"rule": {"chain": "c", "comment": "sw:1"}},
        {"rule": {"chain": "c"}},
    ]  # fmt: skip
    read = observed("t", listed)
    port = ("inet_proto", "inet_service")
    assert read.chains["c"] == Chain((Rule("sw:1"), Rule("")))
    assert read.sets["m"] == NamedSet(port, "ipv4_addr", {("tcp", 80): "10.0.0.5"})
    assert read.sets["one"].data_type == "verdict"
    assert read.sets["s"] == NamedSet(port, "", {("udp", 53): None})
    assert read.chains["b"].hook is not None
    assert comments(read) == {"c": ("sw:1", "")}


def test_a_base_chain_that_was_moved_makes_the_table_anew() -> None:
    wanted = table_of({})
    moved = Ruleset("t", {**wanted.chains, "forward": Chain()}, wanted.sets)
    assert "table" in change(moved, wanted)[0]["delete"]


def test_host_ports_on_one_address_and_on_all() -> None:
    end = EndpointInfo("bridge", "eth0", "172.17.0.2", 16, "02:42:ac:11:00:02", 1500, "swv1", "172.17.0.1")
    ports = (HostPort("tcp", 80, 8080), HostPort("tcp", 81, 8080, "192.0.2.1"))
    record = EndpointRecord("c" * 64, (end,), ports)
    table = host_rules.render("t", "sw0", IPv4Network("172.17.0.0/16"), [record])
    assert {name: dict(named.elements) for name, named in table.sets.items()} == {
        "container": {("tcp", 8080): "172.17.0.2"},
        "port": {("tcp", 8080): 80},
        "container-on": {("192.0.2.1", "tcp", 8080): "172.17.0.2"},
        "port-on": {("192.0.2.1", "tcp", 8080): 81},
    }
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
