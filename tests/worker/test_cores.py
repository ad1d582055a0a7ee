"""The worker's pure parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.network.view_index import ViewIndex
from swarmpy.rpc.dispatcher_pb2 import Assignments, MeshNode, MeshService, MeshTask, MeshUpdate
from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    PREPARING,
    READY,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    STARTING,
    IPAMConfig,
    Network,
    NetworkAttachment,
    PortConfig,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
    TaskTemplate,
    Ulimit,
)
from swarmpy.worker.container_spec import container_for
from swarmpy.worker.description import memory_bytes
from swarmpy.worker.executor import Order
from swarmpy.worker.holdings import Holdings
from swarmpy.worker.known_managers import LONGEST_WAIT_S, KnownManagers
from swarmpy.worker.mesh import MeshFold
from swarmpy.worker.placeholders import expand, values_of
from swarmpy.worker.reporter import Reporter
from swarmpy.worker.steps import Work, next_step

STATES = [TaskState.Value(name) for name in TaskState.keys()]  # noqa: SIM118 (an enum wrapper, not a dict)


@given(st.sampled_from(STATES), st.sampled_from([READY, RUNNING, SHUTDOWN, REMOVE]))
def test_every_step_moves_forward_and_every_way_ends(state: TaskState, desired: TaskState) -> None:
    for outcome in ("success", "failure"):
        now, steps = state, 0
        while (step := next_step(now, desired)) is not None:
            after = step.failure if outcome == "failure" and step.work is not Work.NONE else step.success
            assert after > now
            now, steps = after, steps + 1
            assert steps < 10
        assert now >= min(desired, SHUTDOWN) or state > RUNNING


def test_the_way_up_waits_at_ready_for_the_word_to_run() -> None:
    def way(desired: TaskState) -> list[TaskState]:
        states: list[TaskState] = [ASSIGNED]
        while (step := next_step(states[-1], desired)) is not None and states[-1] != RUNNING:
            states.append(step.success)
        return states

    assert way(READY) == [ASSIGNED, ACCEPTED, PREPARING, READY]
    assert way(RUNNING) == [ASSIGNED, ACCEPTED, PREPARING, READY, STARTING, RUNNING]


def test_what_never_started_is_discarded_and_what_did_is_stopped() -> None:
    preparing, running = next_step(PREPARING, SHUTDOWN), next_step(RUNNING, SHUTDOWN)
    assert preparing is not None and preparing.work is Work.DISCARD
    assert running is not None and running.work is Work.STOP


TASK_IDS = st.sampled_from([f"t{number}" for number in range(5)])
MESSAGES = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sets(TASK_IDS, max_size=3), st.sets(TASK_IDS, max_size=2)), max_size=12
)


@given(MESSAGES)
def test_holdings_follow_messages_and_lose_nothing_to_half_a_set(
    messages: list[tuple[bool, bool, set[str], set[str]]],
) -> None:
    holdings, runners = Holdings(), set[str]()
    for complete, more, added, removed in messages:
        before = set(holdings.tasks)
        changes = holdings.apply(
            Assignments(
                complete=complete, more=more, tasks=[Task(id=key, desired_state=RUNNING) for key in added],
                removed_tasks=sorted(removed - added),
            )
        )
        runners |= {task.id for task in changes.new}
        runners -= set(changes.removed)
        assert runners == set(holdings.tasks)
        if more:
            assert set(holdings.tasks) == (before | added) - (removed - added)
        if complete and not more:
            assert set(holdings.tasks) == added


def test_a_desired_state_never_goes_back() -> None:
    holdings = Holdings()
    holdings.apply(Assignments(complete=True, tasks=[Task(id="t", desired_state=SHUTDOWN)]))
    changes = holdings.apply(Assignments(complete=True, tasks=[Task(id="t", desired_state=RUNNING)]))
    assert not changes.changed and holdings.tasks["t"].desired_state == SHUTDOWN


def test_templates_go_when_a_complete_set_does_not_use_them() -> None:
    holdings = Holdings()
    holdings.restore([Task(id="t", template_id="a")], [TaskTemplate(id="a"), TaskTemplate(id="b")])
    holdings.apply(Assignments(complete=True, tasks=[Task(id="t", template_id="a")]))
    assert set(holdings.templates) == {"a"}


def test_a_state_is_owed_until_it_and_nothing_older_is_stored() -> None:
    reporter = Reporter()
    reporter.changed("t", TaskStatus(state=STARTING))
    first = reporter.take()
    assert first is not None and first.sequence == 1
    reporter.changed("t", TaskStatus(state=RUNNING))
    reporter.stored(1)
    assert reporter.owed == 1
    second = reporter.take()
    assert second is not None and second.updates[0].status.state == RUNNING
    reporter.session()
    again = reporter.take()
    assert again is not None and again.sequence == 1 and again.updates[0].status.state == RUNNING
    reporter.stored(1)
    assert reporter.owed == 0 and reporter.take() is None


def test_a_state_on_the_way_waits_for_a_heartbeat_or_is_never_told() -> None:
    reporter = Reporter()
    reporter.changed("slow", TaskStatus(state=STARTING), on_its_way=True)
    reporter.changed("quick", TaskStatus(state=STARTING), on_its_way=True)
    assert reporter.take() is None
    reporter.changed("quick", TaskStatus(state=RUNNING))
    told = reporter.take()
    assert told is not None and [update.task_id for update in told.updates] == ["quick"]
    assert reporter.waits_for_heartbeat
    assert reporter.take(heartbeat_due=True) is None         # one report is under way
    reporter.stored(1)
    late = reporter.take(heartbeat_due=True)
    assert late is not None and [update.task_id for update in late.updates] == ["slow"]


def test_managers_are_tried_in_turn_with_growing_waits_and_a_leader_at_once() -> None:
    managers = KnownManagers(["a:1", "b:1"], random.Random(1))
    assert managers.choose() == "a:1"
    assert managers.refused("a:1", "c:1") == 0.0
    assert managers.choose() == "c:1"
    waits = [managers.refused(str(managers.choose()), None) for _ in range(30)]
    assert sum(waits[:5]) < 2.0 and 2.0 < max(waits) <= 1.5 * LONGEST_WAIT_S
    managers.serves("b:1", 1.5)
    assert managers.choose() == "b:1"
    waits = [managers.refused(str(managers.choose()), None) for _ in range(30)]
    assert max(waits) <= 1.5 * 1.5, "the heartbeat period is the longest wait"
    assert not managers.learn([]) and managers.learn(["d:1", "a:1"]) and managers.choose() == "d:1"


def test_when_a_session_breaks_the_others_are_asked_first() -> None:
    managers = KnownManagers(["a:1", "b:1", "c:1"], random.Random(1))
    managers.serves("b:1", 1.5)
    assert managers.lost("b:1", None) == 0.0
    assert managers.choose() == "c:1"
    assert managers.refused("c:1", "b:1") > 0.0, "it has not heard yet that b is gone"
    assert managers.choose() == "a:1"
    assert managers.refused("a:1", "c:1") > 0.0
    assert managers.choose() == "c:1"
    assert managers.refused("c:1", "c:1") > 0.0 and managers.choose() == "c:1", "it is about to lead"
    managers.serves("c:1", 1.5)
    assert managers.lost("c:1", "a:1") == 0.0 and managers.choose() == "a:1", "it handed over"


def test_what_the_hosts_own_manager_says_comes_first() -> None:
    managers = KnownManagers(["a:1", "b:1"], random.Random(1))
    managers.serves("a:1", 1.5)
    managers.lost("a:1", None)
    managers.hint("a:1")
    assert managers.choose() == "a:1"


def test_a_crowd_comes_back_bit_by_bit() -> None:
    managers = KnownManagers(["a:1", "b:1"], random.Random(1))
    managers.serves("a:1", 5.0)
    waits = [managers.lost("a:1", None) for _ in range(100)]
    assert min(waits) < 0.5 and 2.5 < max(waits) <= 3.0


def test_two_managers_that_name_each_other_do_not_spin_us() -> None:
    managers = KnownManagers(["a:1", "b:1"], random.Random(1))
    total = 0.0
    for _ in range(10):
        addr = str(managers.choose())
        total += managers.refused(addr, "b:1" if addr == "a:1" else "a:1")
    assert total > 1.0


def test_a_mesh_view_is_applied_only_when_it_is_whole() -> None:
    fold = MeshFold("n1")
    network = Network(id="ingress", vni=4096, ipam=[IPAMConfig(subnet="10.0.0.0/24")])
    first = MeshUpdate(
        complete=True, version=3, more=True, ingress=network, data_path_port=4789,
        nodes=[
            MeshNode(id="n1", addr="192.0.2.1", ingress_address="10.0.0.2/24"),
            MeshNode(id="n2", addr="192.0.2.2", ingress_address="10.0.0.3/24"),
            MeshNode(id="n3", addr="2001:db8::1", ingress_address="10.0.0.4/24"),
        ],
    )
    second = MeshUpdate(
        version=3, tasks=[MeshTask(id="t", service_id="s", node_id="n2", address="10.0.0.9/24")],
        services=[
            MeshService(id="s", ports=[
                PortConfig(target_port=80, published_port=8080),
                PortConfig(target_port=81, published_port=8081, protocol=PortConfig.SCTP),
            ]),
        ],
    )
    assert not fold.fold(first) and fold.fold(second) and fold.version == 3
    view = fold.view()
    assert view.ingress is not None and str(view.ingress.vtep) == "192.0.2.1"
    assert set(view.peers) == {"n2"} and set(view.tasks) == {"t"}
    assert [port.published for port in view.services["s"]] == [8080]
    assert fold.fold(MeshUpdate(version=4, removed_tasks=["t"])) and not fold.view().tasks


numbers = st.sets(st.integers(0, 5), max_size=3)


@given(st.lists(st.tuples(st.booleans(), numbers, numbers, numbers, st.booleans()), max_size=6))
def test_a_view_knows_what_it_changed(steps: list[tuple[bool, set[int], set[int], set[int], bool]]) -> None:
    """An index that moves by what views say of themselves is the index of the last view."""
    fold, index = MeshFold("n0"), ViewIndex()
    for version, (complete, put, moved, removed, looked_at) in enumerate(steps, 1):
        fold.fold(MeshUpdate(
            complete=complete, version=version,
            nodes=[MeshNode(id=f"n{n}", addr=f"192.0.2.{n + 10 * (n in moved)}", ingress_address=f"10.0.0.{n}/24")
                   for n in put],
            services=[MeshService(id=f"s{n}", ports=[PortConfig(target_port=80, published_port=8080 + n)])
                      for n in put],
            tasks=[MeshTask(id=f"t{n}", service_id=f"s{n % 2}", node_id=f"n{n}", address=f"10.0.0.{100 + n}/24")
                   for n in put | moved],
            removed_nodes=[f"n{n}" for n in removed - put], removed_services=[f"s{n}" for n in removed - put],
            removed_tasks=[f"t{n}" for n in removed - put - moved],
        ))  # fmt: skip
        if looked_at:
            index.move(fold.view())
    last = fold.view()
    index.move(last)
    afresh = ViewIndex()
    afresh.move(last)
    for each in (index, afresh):
        assert set(each.published()) == {("tcp", 8080 + int(name[1:])) for name in last.services}
    assert {a: index.vtep(a) for a in index.addresses()} == {a: afresh.vtep(a) for a in afresh.addresses()}
    assert all(index.backends(name) == afresh.backends(name) for name in ("s0", "s1"))


def test_placeholders_are_known_names_only() -> None:
    values = {".Task.Slot": "2", ".Node.Hostname": "h"}
    assert expand("{{.Node.Hostname}}-{{ .Task.Slot }}", values, "Hostname") == "h-2"
    assert expand("plain {x}", values, "Env A") == "plain {x}"
    with pytest.raises(InvalidArgument, match=r"Env A: \{\{.Task.Slott\}\} is not a placeholder"):
        expand("{{.Task.Slott}}", values, "Env A")
    with pytest.raises(InvalidArgument, match=r"Env A: a '\{\{' is not closed"):
        expand("a {{.Task.Slot", values, "Env A")


def test_placeholders_for_labels_of_the_service() -> None:
    task = Task(service_labels={"tier": "front {{", "com.example/owner": "ada"})
    values = values_of(task, "web.1.t", hostname="h", architecture="x86_64", os="linux")
    assert expand("{{.Service.Labels.tier}}", values, "Env A") == "front {{"
    assert expand('{{index .Service.Labels "com.example/owner"}}', values, "Env A") == "ada"
    with pytest.raises(InvalidArgument, match="set it with --label nope=VALUE"):
        expand('{{ index .Service.Labels "nope" }}', values, "Env A")


def order() -> Order:
    spec = TaskSpec()
    spec.container.image = "web"
    task = Task(
        id="tid", service_id="sid", service_name="web", slot=2, node_id="nid",
        networks=[NetworkAttachment(network_id="ingress", addresses=["10.0.0.5/24"])],
        ports=[
            PortConfig(target_port=80, published_port=8080),
            PortConfig(target_port=53, published_port=0, protocol=PortConfig.UDP, publish_mode=PortConfig.HOST),
        ],
    )
    return Order(task, spec)


def test_a_task_becomes_a_container() -> None:
    given_order = order()
    container = given_order.spec.container
    container.command.append("/serve")
    container.args.append("-v")
    container.env.extend(["A=1", "SLOT={{.Task.Slot}}"])
    container.hostname = "{{.Service.Name}}-{{.Task.Slot}}"
    container.hosts.append("192.0.2.7 db database")
    container.stop_grace_period_ns = 3_000_000_000
    container.ulimits.append(Ulimit(name="nofile", soft=10, hard=20))
    container.privileges.no_new_privileges = True
    given_order.spec.resources.limits.memory_bytes = 64 << 20
    given_order.spec.resources.limits.pids = 50
    given_order.spec.resources.limits.nano_cpus = 64_000_000_000
    made = container_for(given_order, hostname="host", architecture="x86_64", cpus=4)
    assert made.name == "web.2.tid"
    assert made.config.entrypoint == ("/serve",) and made.config.cmd == ("-v",)
    assert made.config.env == ("A=1", "SLOT=2") and made.config.hostname == "web-2"
    assert made.config.labels["com.docker.swarm.task.name"] == "web.2.tid"
    assert made.config.stop_timeout == 3
    assert made.host.memory == 64 << 20 and made.host.pids_limit == 50
    assert made.host.nano_cpus == 4_000_000_000, "no more than the host has"
    assert made.host.extra_hosts == ("db:192.0.2.7", "database:192.0.2.7")
    assert made.host.security_opt == ("no-new-privileges",)
    assert set(made.host.port_bindings) == {"53/udp"} and made.host.port_bindings["53/udp"][0].host_port == ""
    ingress = made.networking.endpoints["ingress"]
    assert ingress.ipam is not None and ingress.ipam.ipv4_address == "10.0.0.5/24"


def test_what_tasks_cannot_have_yet_is_refused_by_name() -> None:
    given_order = order()
    given_order.spec.networks.add(target="backend")
    with pytest.raises(NotSupported, match="network backend"):
        container_for(given_order, hostname="host", architecture="x86_64", cpus=4)


def test_memory_is_read_in_kibibytes() -> None:
    assert memory_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n") == 2 << 20
