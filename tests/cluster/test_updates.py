"""Rolling updates on real hosts: while leaders and nodes fail, while the user changes his mind, and by every rule."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

import pytest

from tests.cluster.swarm import Swarm, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (3, 2)
PATIENCE_S = 90.0
FOREVER = ("--update-delay", "1h")      # an update that stays in its middle until something else happens
QUICK = ("--update-monitor", "500ms", "--rollback-monitor", "500ms")
FAILS_IN_SLOT_2 = "if [ $(hostname) = 2 ]; then exit 4; fi; sleep 1000"


def create(swarm: Swarm, name: str, replicas: int, *options: str) -> None:
    """A service that runs."""
    options = (*QUICK, *options)
    swarm.docker("service", "create", "-d", "--name", name, "--replicas", str(replicas), *options, "web:1").ok()
    swarm.converged(name, replicas)


def update(swarm: Swarm, name: str, *options: str, on: str = "") -> None:
    swarm.docker("service", "update", "-d", *options, name, on=on).ok()


def status(swarm: Swarm, name: str, on: str = "") -> dict[str, Any]:
    """Its UpdateStatus."""
    service = swarm.api(on).api.inspect_service(name)
    found: dict[str, Any] = service.get("UpdateStatus", {})
    return found


def reaches(swarm: Swarm, name: str, state: str, on: str = "") -> None:
    until(lambda: status(swarm, name, on).get("State") == state, f"the update of {name} to be {state}", PATIENCE_S)


def running_image(swarm: Swarm, name: str, image: str, on: str = "") -> list[dict[str, Any]]:
    """The tasks that should run and do, of an image."""
    return [
        task
        for task in swarm.tasks(name, on)
        if task["DesiredState"] == task["Status"]["State"] == "running"
        and task["Spec"]["ContainerSpec"]["Image"].startswith(image)
    ]


def gets_going(swarm: Swarm, name: str, image: str, count: int, on: str = "") -> None:
    until(lambda: len(running_image(swarm, name, image, on)) >= count, f"{count} updated tasks of {name}", PATIENCE_S)


def is_empty(swarm: Swarm, host: str) -> bool:
    return not swarm.docker("ps", "-aq", on=host).ok()


# ------------------------------------------------------------------------------------------------ while things fail


def test_the_leader_is_killed_in_the_middle_of_an_update(swarm: Swarm) -> None:
    create(swarm, "web", 5, "--update-delay", "500ms", "-p", "8080:80")
    leader = swarm.leader()
    others = [name for name in swarm.managers if name != leader]
    with swarm.watched(8080, [host for host in swarm.hosts if host != leader]) as prober:
        update(swarm, "web", "--image", "web:2", on=others[0])
        gets_going(swarm, "web", "web:2", 2, others[0])
        swarm.lab.kill(leader)
        until(lambda: swarm.leader(others) != leader, "another leader")
        reaches(swarm, "web", "completed", others[0])
    prober.assert_unbroken(at_least=20)
    swarm.converged("web", 5, on=others[0])
    assert len(running_image(swarm, "web", "web:2", others[0])) == 5
    made = [task for task in swarm.tasks("web", others[0]) if task["Spec"]["ContainerSpec"]["Image"] == "web:2"]
    assert len({task["Slot"] for task in made}) == 5


def test_an_update_goes_on_without_a_node(swarm: Swarm) -> None:
    """Drained, it gives its tasks away; paused, it keeps those whose turn has not come; without power, it has none."""
    create(swarm, "web", 5, "--update-delay", "500ms")
    update(swarm, "web", "--image", "web:2")
    gets_going(swarm, "web", "web:2", 1)
    swarm.docker("node", "update", "--availability", "drain", "worker1").ok()
    reaches(swarm, "web", "completed")
    assert "worker1" not in swarm.converged("web", 5).values()
    assert len(running_image(swarm, "web", "web:2")) == 5

    swarm.docker("node", "update", "--availability", "active", "worker1").ok()
    update(swarm, "web", "--image", "web:1")
    gets_going(swarm, "web", "web:1", 1)
    paused = running_image(swarm, "web", "web:2")[-1]["NodeID"]
    swarm.docker("node", "update", "--availability", "pause", paused).ok()
    reaches(swarm, "web", "completed")
    swarm.converged("web", 5)
    assert len(running_image(swarm, "web", "web:1")) == 5
    swarm.docker("node", "update", "--availability", "active", paused).ok()

    update(swarm, "web", "--image", "web:2")
    gets_going(swarm, "web", "web:2", 2)
    swarm.lab.kill("worker2", with_containers=True)
    until(lambda: "worker2" not in swarm.running("web").values(), "its tasks to be given up")
    reaches(swarm, "web", "completed")
    assert "worker2" not in swarm.converged("web", 5).values()
    assert len(running_image(swarm, "web", "web:2")) == 5


# ---------------------------------------------------------------------------------- while the user changes his mind


def test_a_service_is_changed_and_removed_in_the_middle_of_an_update(swarm: Swarm) -> None:
    create(swarm, "web", 4, *FOREVER)
    update(swarm, "web", "--image", "web:2")
    gets_going(swarm, "web", "web:2", 1)
    update(swarm, "web", "--env-add", "A=1", "--update-delay", "0s")
    reaches(swarm, "web", "completed")
    updated = running_image(swarm, "web", "web:2")
    assert [task["Spec"]["ContainerSpec"]["Env"] for task in updated] == [["A=1"]] * 4

    update(swarm, "web", "--image", "web:1", *FOREVER)
    gets_going(swarm, "web", "web:1", 1)
    kept = {task["ID"] for task in running_image(swarm, "web", "web:2")}
    assert "converged" in swarm.docker("service", "rollback", "web").ok()
    assert status(swarm, "web")["State"] == "rollback_completed"
    assert status(swarm, "web")["Message"] == "rollback completed"
    assert len(running_image(swarm, "web", "web:2")) == 4
    assert kept <= set(swarm.running("web")), "what was not updated is not touched"

    update(swarm, "web", "--image", "web:1", *FOREVER)
    gets_going(swarm, "web", "web:1", 1)
    swarm.docker("service", "rm", "web").ok()
    until(lambda: not swarm.tasks("web"), "its tasks to go")
    for host in swarm.hosts:
        until(partial(is_empty, swarm, host), f"its containers to go from {host}")


def test_a_scaling_in_the_middle_of_an_update_takes_no_second_slot(swarm: Swarm) -> None:
    create(swarm, "web", 3)
    slow = ("--health-cmd", "test -e /tmp/ready", "--health-interval", "100ms", "--health-retries", "100")
    update(swarm, "web", *slow, "--args", "sh -c 'sleep 3; touch /tmp/ready; sleep 1000'")
    until(lambda: len(swarm.running("web")) == 2, "one slot between versions")
    swarm.docker("service", "scale", "-d", "web=4").ok()

    def is_over() -> bool:
        states = [(task["DesiredState"], task["Status"]["State"], task["Slot"]) for task in swarm.tasks("web")]
        up = {slot for desired, state, slot in states if desired == state == "running" and slot < 4}
        assert len(up) >= 2, states
        return status(swarm, "web").get("State") == "completed"

    until(is_over, "the update to end", PATIENCE_S)
    assert len(swarm.converged("web", 4)) == 4


# ------------------------------------------------------------------------------------------------ by every rule


def test_failures_up_to_the_ratio_are_borne(swarm: Swarm) -> None:
    """One of four tasks fails, whatever is done about it; the swarm updates five services at once meanwhile."""
    ends = {
        "pause-0": ("paused", 3), "pause-0.25": ("completed", 3), "continue-0": ("completed", 3),
        "rollback-0": ("rollback_completed", 4), "rollback-0.25": ("completed", 3),
    }  # fmt: skip
    for name in ends:
        action, _, ratio = name.partition("-")
        rules = ("--update-failure-action", action, "--update-max-failure-ratio", ratio, "--restart-condition", "none")
        create(swarm, name.replace(".", ""), 4, *rules)
    for name in ends:
        update(swarm, name.replace(".", ""), "--hostname", "{{.Task.Slot}}", "--args", f"sh -c '{FAILS_IN_SLOT_2}'")
    for name, (state, running) in ends.items():
        service = name.replace(".", "")
        reaches(swarm, service, state)
        assert len(swarm.converged(service, running)) == running, name
        failed = [task for task in swarm.tasks(service) if task["Status"]["State"] == "failed"]
        assert [task["Slot"] for task in failed] == [2], name
        if state == "paused":
            message = f"update paused due to failure or early termination of task {failed[0]['ID']}"
            assert status(swarm, service)["Message"] == message


def test_slots_are_taken_two_at_a_time_with_a_delay_between(swarm: Swarm) -> None:
    create(swarm, "web", 5, "--update-parallelism", "2", "--update-delay", "2s", "--update-monitor", "1s")
    update(swarm, "web", "--image", "web:2")
    reaches(swarm, "web", "completed")
    ran = sorted(moment(task["Status"]["Timestamp"]) for task in running_image(swarm, "web", "web:2"))
    gaps = [(ran[place + 2] - ran[place]).total_seconds() for place in range(3)]
    assert all(gap >= 2 for gap in gaps), gaps
    assert (moment(status(swarm, "web")["CompletedAt"]) - ran[-1]).total_seconds() >= 1


def test_all_at_once_and_start_first_never_has_fewer(swarm: Swarm) -> None:
    create(swarm, "web", 4, "--update-parallelism", "0", "--update-order", "start-first", "-p", "8080:80")
    with swarm.watched(8080) as prober:
        update(swarm, "web", "--image", "web:2")

        def is_over() -> bool:
            assert len(swarm.running("web")) >= 4
            return status(swarm, "web").get("State") == "completed"

        until(is_over, "the update to end", PATIENCE_S)
    prober.assert_unbroken(at_least=10)
    assert len(running_image(swarm, "web", "web:2")) == 4


def test_a_port_that_tasks_were_not_made_for_is_theirs_after_an_update(swarm: Swarm) -> None:
    create(swarm, "web", 2)
    first = set(swarm.running("web"))
    update(swarm, "web", "--publish-add", "8080:80")
    reaches(swarm, "web", "completed")
    assert not first & set(swarm.converged("web", 2))
    for host in swarm.hosts:
        swarm.seen(host, 8080, 2)
    second = set(swarm.running("web"))
    update(swarm, "web", "--publish-add", "8081:80", "--publish-rm", "80")
    swarm.seen(swarm.hosts[0], 8081, 2)
    assert set(swarm.converged("web", 2)) == second, "the mesh changes without the tasks"


# ------------------------------------------------------------------------------------------------ where tasks go


def test_constraints_on_every_attribute(swarm: Swarm) -> None:
    ids = {name: id_ for id_, name in swarm.names().items()}
    swarm.docker("node", "update", "--label-add", "disk=ssd", "worker1").ok()
    managers, workers = set(swarm.managers), set(swarm.workers)
    expected: dict[str, set[str]] = {
        f"node.id=={ids['manager2']}": {"manager2"}, f"node.id!={ids['manager2']}": (managers | workers) - {"manager2"},
        "node.hostname==worker1": {"worker1"}, "node.hostname!=worker1": managers | {"worker2"},
        "node.role==worker": workers, "node.role!=worker": managers,
        "node.platform.os==linux": managers | workers, "node.platform.os!=linux": set(),
        "node.platform.arch!=s390x": managers | workers, "node.platform.arch==s390x": set(),
        "node.labels.disk==ssd": {"worker1"}, "node.labels.disk!=ssd": managers | {"worker2"},
        "engine.labels.rack==a": set(), "engine.labels.rack!=a": managers | workers,
    }  # fmt: skip
    for number, constraint in enumerate(expected):
        options = ("--replicas", "5", "--constraint", constraint)
        swarm.docker("service", "create", "-d", "--name", f"c{number}", *options, "web:1").ok()
    for number, (constraint, hosts) in enumerate(expected.items()):
        if hosts:
            assert set(swarm.converged(f"c{number}", 5, timeout_s=PATIENCE_S).values()) == hosts, constraint
        else:
            errors = {task["Status"].get("Err") for task in swarm.tasks(f"c{number}")}
            assert errors == {"no suitable node (scheduling constraints not satisfied on 5 nodes)"}, constraint
    swarm.docker("node", "update", "--label-rm", "disk", "worker1").ok()
    until(lambda: not swarm.running("c10"), "the tasks to leave the node that lost its label")


def test_a_new_constraint_moves_only_what_it_does_not_admit(swarm: Swarm) -> None:
    create(swarm, "web", 5)
    before = swarm.converged("web", 5)
    update(swarm, "web", "--constraint-add", "node.hostname!=worker1")
    reaches(swarm, "web", "completed")
    after = swarm.converged("web", 5)
    assert "worker1" not in after.values()
    assert {id_ for id_, host in before.items() if host != "worker1"} <= set(after)


def test_preferences_spread_over_the_values_of_a_label(swarm: Swarm) -> None:
    racks = {"manager1": "a", "manager2": "a", "manager3": "a", "worker1": "b"}
    for host, rack in racks.items():
        swarm.docker("node", "update", "--label-add", f"rack={rack}", host).ok()
    create(swarm, "web", 6, "--placement-pref", "spread=node.labels.rack")
    placed = [racks.get(host, "") for host in swarm.converged("web", 6).values()]
    assert sorted(placed) == ["", "", "a", "a", "b", "b"]
    swarm.docker("service", "scale", "-d", "web=9").ok()
    placed = [racks.get(host, "") for host in swarm.converged("web", 9).values()]
    assert {rack: placed.count(rack) for rack in placed} == {"": 3, "a": 3, "b": 3}
    for host in racks:
        swarm.docker("node", "update", "--label-rm", "rack", host).ok()


def test_reservations_and_the_limit_per_node_leave_tasks_waiting(swarm: Swarm) -> None:
    node = swarm.node("worker1")["Description"]["Resources"]
    wishes = {
        "memory": (("--reserve-memory", str(node["MemoryBytes"] * 2 // 3)), "insufficient resources on 5 nodes"),
        "cpus": (("--reserve-cpu", str(node["NanoCPUs"] * 2 // 3 / 1e9)), "insufficient resources on 5 nodes"),
        "few": (("--replicas-max-per-node", "1"), "max replicas per node limit exceeded on 5 nodes"),
    }
    for name, (options, _) in wishes.items():
        swarm.docker("service", "create", "-d", "--name", name, "--replicas", "7", *options, "web:1").ok()
    for name, (_, reason) in wishes.items():
        assert set(swarm.converged(name, 5).values()) == set(swarm.hosts), name
        waiting = [task["Status"] for task in swarm.tasks(name) if task["Status"]["State"] == "pending"]
        assert [said.get("Err") for said in waiting] == [f"no suitable node ({reason})"] * 2, name
    swarm.docker("service", "scale", "-d", "memory=4", "cpus=5", "few=5").ok()
    assert len(swarm.converged("memory", 4)) == 4
    update(swarm, "few", "--image", "web:2", *QUICK)
    reaches(swarm, "few", "completed")
    assert set(swarm.converged("few", 5).values()) == set(swarm.hosts), "each new task takes the place of its old one"


# ------------------------------------------------------------------------------------------------ what follows an end


def test_restarts_wait_their_delay_and_are_counted_in_their_window(swarm: Swarm) -> None:
    crash = ("web:1", "sh", "-c", "exit 3")
    rules = {
        "patient": ("--restart-delay", "2s", "--restart-max-attempts", "1"),
        "forgetful": ("--restart-delay", "1s", "--restart-max-attempts", "1", "--restart-window", "1ms"),
    }
    for name, options in rules.items():
        swarm.docker("service", "create", "-d", "--name", name, *options, *crash).ok()

    def ended(name: str) -> list[dict[str, Any]]:
        tasks = [task for task in swarm.tasks(name) if task["Status"]["State"] == "failed"]
        return sorted(tasks, key=lambda task: str(task["CreatedAt"]))

    until(lambda: len(ended("patient")) == 2, "one start and one restart")
    first, second = ended("patient")
    between = moment(second["Status"]["Timestamp"]) - moment(first["Status"]["Timestamp"])
    assert between.total_seconds() >= 2
    until(lambda: len(ended("forgetful")) >= 3, "more restarts than one window has attempts")
    assert len(ended("patient")) == 2
    done = ("service", "create", "-d", "--name", "done", "--restart-condition", "on-failure", "--restart-delay", "10ms")
    swarm.docker(*done, "web:1", "sh", "-c", "exit 0").ok()
    until(lambda: [task["Status"]["State"] for task in swarm.tasks("done")] == ["complete"], "it to be done")
    swarm.docker("swarm", "update", "--task-history-limit", "2").ok()
    until(lambda: len(swarm.tasks("forgetful")) == 2, "older tasks to be forgotten")
    assert len(swarm.tasks("done")) == 1
    swarm.docker("swarm", "update", "--task-history-limit", "5").ok()


def moment(text: str) -> datetime:
    """RFC 3339 with nanoseconds, as the API writes times."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6]:0<6}+00:00")
