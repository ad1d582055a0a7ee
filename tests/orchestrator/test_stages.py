"""The stages together, in small stories of their own."""

from __future__ import annotations

from collections import Counter

import pytest

from swarmpy.errors import Conflict
from swarmpy.manager.allocator import allocator
from swarmpy.manager.orchestrator import orchestrator
from swarmpy.manager.scheduler import scheduler
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    COMPLETE,
    FAILED,
    NEW,
    ORPHANED,
    PENDING,
    READY,
    RUNNING,
    SHUTDOWN,
    NodeSpec,
    ServiceSpec,
    Task,
    UpdateStatus,
)
from tests.orchestrator.simulation import Simulation, apply_option, service_spec, simulate


async def swarm_of(sim: Simulation, nodes: int, **options: int) -> None:
    await sim.cluster(**options)
    for number in range(1, nodes + 1):
        await sim.add_node(f"w{number}")


def test_replicas_run_spread_over_the_nodes() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 3)
        await sim.create_service(service_spec("web", 6, publish=8080))
        await sim.settle()
        sim.check_converged("web")
        assert sorted(task.node_id for task in sim.running("web")) == ["w1", "w1", "w2", "w2", "w3", "w3"]
        addresses = [task.networks[0].addresses[0] for task in sim.running("web")]
        assert len(set(addresses)) == 6
        assert all(task.ports[0].published_port == 8080 for task in sim.running("web"))
        ingress = sim.store.networks.by_name("ingress")
        assert ingress is not None and ingress.ipam[0].subnet == "10.0.0.0/24" and ingress.vni == 4096
        assert all(node.ingress.addresses for node in sim.store.nodes.values())

    simulate(story)


@pytest.mark.parametrize("publish", [0, 8080])
def test_what_is_done_a_few_at_a_time_comes_to_its_end(publish: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (orchestrator, allocator, scheduler):
        monkeypatch.setattr(stage, "_AT_ONCE", 2)
    monkeypatch.setattr(orchestrator, "_UNITS", 3)

    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 3)
        web, other = service_spec("web", 11, parallelism=0), service_spec("other", 11)
        if publish:
            apply_option(web, "publish", str(publish))
        for spec in (web, other):
            await sim.create_service(spec)
        await sim.settle()
        await sim.update_service("web", lambda spec: apply_option(spec, "image", "v2"))
        await sim.update_service("other", lambda spec: apply_option(spec, "replicas", "4"))
        await sim.advance(20)
        for name, replicas in (("web", 11), ("other", 4)):
            sim.check_converged(name)
            assert len(sim.running(name)) == replicas
        by_node = Counter(task.node_id for task in sim.running("web"))
        assert max(by_node.values()) - min(by_node.values()) <= 1

    simulate(story)


def test_tasks_carry_the_labels_of_their_service_where_a_placeholder_asks_for_one() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1)
        plain, asking = service_spec("plain", 1), service_spec("asking", 1)
        for spec in (plain, asking):
            spec.annotations.labels["tier"] = "front"
        asking.task.container.env.append("TIER={{.Service.Labels.tier}}")
        await sim.create_service(plain)
        await sim.create_service(asking)
        await sim.settle()
        assert [dict(task.service_labels) for task in sim.running("plain")] == [{}]
        first = sim.running("asking")[0]
        assert first.service_labels == {"tier": "front"}
        await sim.end("w1", first.id, FAILED)
        await sim.advance(6)
        assert [dict(task.service_labels) for task in sim.running("asking")] == [{"tier": "front"}]

    simulate(story)


def test_a_failed_task_is_replaced_after_its_delay() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1)
        await sim.create_service(service_spec("web", 1, restart_delay=5))
        await sim.settle()
        first = sim.running("web")[0]
        await sim.end("w1", first.id, FAILED)
        await sim.advance(4.9)
        waiting = [task for task in sim.store.tasks.values() if task.id != first.id]
        assert [(task.desired_state, task.status.state) for task in waiting] == [(READY, READY)]
        assert sim.store.tasks[first.id].desired_state == SHUTDOWN
        await sim.advance(0.2)
        sim.check_converged("web")

    simulate(story)


@pytest.mark.parametrize("history", [0, 5])
def test_attempts_are_counted_whatever_history_is_kept_and_whoever_leads(history: int) -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1, history=history)
        await sim.create_service(service_spec("job", 1, image="bad", attempts=7, restart_delay=1))
        for _ in range(20):
            await sim.advance(3)
            await sim.crash("orchestrator")
        assert not sim.running("job")
        tasks = list(sim.store.tasks.values())
        assert len(tasks) == max(1, history)
        assert all(task.desired_state == SHUTDOWN for task in tasks)
        assert max(len(task.restarts_ns) for task in tasks) == 7

    simulate(story)


def test_a_window_forgets_old_attempts() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1)
        await sim.create_service(service_spec("web", 1, attempts=1, window=10, restart_delay=1))
        for _ in range(4):
            await sim.advance(15)
            await sim.end("w1", sim.running("web")[0].id, FAILED)
        await sim.advance(5)
        sim.check_converged("web")
        await sim.end("w1", sim.running("web")[0].id, FAILED)
        await sim.advance(30)
        assert not sim.running("web")

    simulate(story)


def test_completed_tasks_stay_completed_until_the_service_changes() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("job", 2, restart="on-failure", restart_delay=1))
        await sim.settle()
        for task in sim.running("job"):
            await sim.end(task.node_id, task.id, COMPLETE)
        await sim.advance(60)
        await sim.crash("orchestrator")
        await sim.advance(60)
        assert not sim.running("job") and len(sim.store.tasks) == 2
        await sim.update_service("job", lambda spec: apply_option(spec, "image", "web:2"))
        await sim.advance(60)
        sim.check_converged("job")

    simulate(story)


def test_a_silent_node_is_replaced_and_comes_back_empty_handed() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("web", 4))
        await sim.settle()
        await sim.silence("w2")
        await sim.settle()
        assert {task.node_id for task in sim.running("web") if task.node_id != "w2"} == {"w1"}
        assert len([task for task in sim.running("web") if task.node_id == "w1"]) == 4
        await sim.back("w2")
        await sim.settle()
        sim.check_converged("web")
        assert [state for state in sim.agents["w2"].actual.values() if state == RUNNING] == []

    simulate(story)


def test_an_assignment_that_crosses_a_failure_is_taken_back() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1)
        await sim.stop("scheduler")
        await sim.create_service(service_spec("web", 1))
        await sim.silence("w1")
        await sim.settle()
        late = Task()
        late.CopyFrom(next(iter(sim.store.tasks.values())))
        late.node_id, late.status.state = "w1", ASSIGNED
        await sim.put(late)
        await sim.settle()
        assert sim.store.tasks[late.id].desired_state == SHUTDOWN
        assert len(sim.store.tasks) == 2

    simulate(story)


def test_a_node_down_for_a_day_orphans_its_tasks_and_so_does_its_removal() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 3)
        await sim.create_service(service_spec("web", 3))
        await sim.settle()
        lost = {task.node_id: task.id for task in sim.running("web")}
        await sim.silence("w2")
        await sim.advance(23.9 * 3600)
        assert sim.store.tasks[lost["w2"]].status.state == RUNNING
        await sim.advance(0.2 * 3600)
        assert sim.store.tasks[lost["w2"]].status.state == ORPHANED
        await sim.remove_node("w3")
        await sim.settle()
        assert sim.store.tasks[lost["w3"]].status.state == ORPHANED
        sim.check_converged("web")

    simulate(story)


def test_drain_moves_tasks_one_by_one_and_pause_leaves_them() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("web", 4))
        await sim.settle()
        await sim.availability("w1", NodeSpec.PAUSE)
        await sim.settle()
        assert len([task for task in sim.running("web") if task.node_id == "w1"]) == 2
        await sim.availability("w1", NodeSpec.DRAIN)
        await sim.settle()
        sim.check_converged("web")
        assert {task.node_id for task in sim.running("web")} == {"w2"}

    simulate(story)


def test_a_label_that_goes_takes_the_task_with_it() -> None:
    async def story(sim: Simulation) -> None:
        await sim.cluster()
        await sim.add_node("w1", labels={"disk": "ssd"})
        await sim.add_node("w2", labels={"disk": "ssd"})
        await sim.create_service(service_spec("db", 2, constraint="node.labels.disk==ssd"))
        await sim.settle()
        await sim.availability("w2", NodeSpec.PAUSE)
        await sim.label("w2", "disk", "hdd")
        await sim.settle()
        assert {task.node_id for task in sim.running("db")} == {"w1", "w2"}
        await sim.availability("w2", NodeSpec.ACTIVE)
        await sim.settle()
        assert {task.node_id for task in sim.running("db")} == {"w1"}
        sim.check_converged("db")

    simulate(story)


def test_an_update_rolls_one_slot_at_a_time() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 3)
        await sim.create_service(service_spec("web", 4, parallelism=1, delay=10, monitor=2))
        await sim.settle()
        await sim.update_service("web", lambda spec: apply_option(spec, "image", "web:2"))
        for done in range(1, 5):
            await sim.advance(1)
            service = sim.store.services["id-web"]
            assert service.update_status.state == UpdateStatus.UPDATING
            assert sum(sim.image_of(task) == "web:2" for task in sim.running("web")) == done
            assert len(sim.running("web")) == 4
            if done < 4:
                await sim.advance(8.5)
                await sim.crash("orchestrator")
                await sim.advance(0.5)
        await sim.advance(2)
        status = sim.store.services["id-web"].update_status
        assert (status.state, status.message) == (UpdateStatus.COMPLETED, "update completed")
        sim.check_converged("web")

    simulate(story)


def test_start_first_never_has_fewer_than_all_replicas() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("web", 3, parallelism=0, order="start-first", monitor=1))
        await sim.settle()
        lows: list[int] = []
        sim.laws.watchers.append(
            lambda: lows.append(sum(task.status.state == RUNNING for task in sim.store.tasks.values()))
        )
        await sim.update_service("web", lambda spec: apply_option(spec, "image", "web:2"))
        await sim.advance(5)
        sim.check_converged("web")
        assert min(lows) >= 3

    simulate(story)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_failing_update_pauses_goes_on_or_rolls_back(order: str) -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        for action in ("pause", "continue", "rollback"):
            await sim.create_service(service_spec(action, 3, on_failure=action, order=order, parallelism=1, monitor=1))
        await sim.settle()
        for action in ("pause", "continue", "rollback"):
            await sim.update_service(action, lambda spec: apply_option(spec, "image", "bad"))
        await sim.advance(40)
        states = {name: sim.store.services[f"id-{name}"].update_status for name in ("pause", "continue", "rollback")}
        assert states["pause"].state == UpdateStatus.PAUSED
        assert states["pause"].message.startswith("update paused due to failure or early termination of task ")
        assert states["continue"].state == UpdateStatus.COMPLETED
        assert states["rollback"].state == UpdateStatus.ROLLBACK_COMPLETED
        assert states["rollback"].message == "rollback completed"
        sim.check_converged("rollback")
        left = 3 if order == "start-first" else 2
        assert sum(sim.image_of(task) == "web:1" for task in sim.running("pause")) == left

    simulate(story)


def test_a_newer_update_takes_over() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("web", 4, parallelism=1, delay=100, monitor=1))
        await sim.settle()
        await sim.update_service("web", lambda spec: apply_option(spec, "image", "bad"))
        await sim.advance(3)

        def change(spec: ServiceSpec) -> None:
            apply_option(spec, "image", "web:3")
            apply_option(spec, "delay", "0")

        await sim.update_service("web", change)
        await sim.advance(30)
        sim.check_converged("web")
        assert {sim.image_of(task) for task in sim.running("web")} == {"web:3"}

    simulate(story)


def test_scaling_down_prefers_idle_slots_then_crowded_nodes() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        await sim.create_service(service_spec("web", 3, memory=300))
        await sim.settle()
        crowded = max(("w1", "w2"), key=lambda node: len(list(sim.store.tasks.by_node(node))))
        await sim.update_service("web", lambda spec: apply_option(spec, "replicas", "8"))
        await sim.settle()
        assert len(sim.running("web")) == 6
        errors = {task.status.error for task in sim.store.tasks.values() if task.status.state == PENDING}
        assert errors == {"no suitable node (insufficient resources on 2 nodes)"}
        await sim.update_service("web", lambda spec: apply_option(spec, "replicas", "6"))
        await sim.advance(1)
        sim.check_converged("web")
        assert crowded in {task.node_id for task in sim.running("web")}
        await sim.update_service("web", lambda spec: apply_option(spec, "replicas", "2"))
        await sim.advance(1)
        assert sorted(task.node_id for task in sim.running("web")) == ["w1", "w2"]
        assert len(sim.store.tasks) == 2

    simulate(story)


def test_a_removed_service_leaves_nothing() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 2)
        service = await sim.create_service(service_spec("web", 4, publish=80))
        await sim.settle()
        await sim.silence("w2")
        await sim.settle()
        await sim.remove(sim.store.services[service.id])
        await sim.advance(1)
        assert {task.node_id for task in sim.store.tasks.values()} == {"w2"}
        await sim.back("w2")
        await sim.advance(1)
        assert len(sim.store.tasks) == len(sim.store.templates) == 0
        await sim.create_service(service_spec("other", 1, publish=80))
        await sim.settle()
        sim.check_converged("other")

    simulate(story)


def test_a_slot_keeps_as_much_history_as_the_limit_says() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1, history=3)
        await sim.create_service(service_spec("web", 1, restart_delay=0))
        for _ in range(8):
            await sim.advance(1)
            await sim.end("w1", sim.running("web")[0].id, FAILED)
        await sim.advance(1)
        assert len(sim.store.tasks) == 3
        sim.check_converged("web")

    simulate(story)


def test_what_is_used_up_is_said() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1, subnet_size=29)     # 5 addresses: the node's and four tasks'
        await sim.create_service(service_spec("web", 6, publish=80))
        await sim.settle()
        assert len(sim.running("web")) == 4
        (error,) = {task.status.error for task in sim.store.tasks.values() if task.status.state == NEW}
        assert error.startswith("no free address in ingress network 10.0.0.0/29: all 5 are in use")
        await sim.update_service("web", lambda spec: apply_option(spec, "replicas", "4"))
        await sim.advance(1)
        sim.check_converged("web")
        with pytest.raises(Conflict, match="port 80/tcp is already published by service id-web"):
            await sim.create_service(service_spec("rival", 1, publish=80))

    simulate(story)


def test_an_address_is_not_given_again_at_once_even_by_a_new_leader() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1, history=0)
        await sim.create_service(service_spec("web", 1, publish=80, restart_delay=0))
        await sim.settle()
        seen: list[str] = []
        for _ in range(10):
            task = sim.running("web")[0]
            seen.append(task.networks[0].addresses[0])
            await sim.end("w1", task.id, FAILED)
            await sim.crash("allocator")
            await sim.advance(1)
        assert len(set(seen)) == 10

    simulate(story)


def test_open_ports_are_chosen_and_kept() -> None:
    async def story(sim: Simulation) -> None:
        await swarm_of(sim, 1)
        for name in ("a", "b"):
            await sim.create_service(service_spec(name, 1, publish=0))
        await sim.settle()
        ports = {name: sim.store.services[f"id-{name}"].endpoint.ports[0].published_port for name in ("a", "b")}
        assert sorted(ports.values()) == [30000, 30001]
        await sim.update_service("b", lambda spec: apply_option(spec, "publish", "8080"))
        await sim.crash("allocator")
        await sim.settle()
        assert [port.published_port for port in sim.store.services["id-b"].endpoint.ports] == [ports["b"], 8080]

    simulate(story)


