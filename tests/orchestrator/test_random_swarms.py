"""Random events on random swarms, with stages that crash at any moment. The laws are checked after every log entry.

A failure names its seed. `SWARMPY_SEEDS=1000-2000 pytest tests/orchestrator/test_random_swarms.py` runs others.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from swarmpy.errors import Conflict
from swarmpy.rpc.types_pb2 import COMPLETE, FAILED, REJECTED, RUNNING, NodeSpec, NodeStatus, ServiceSpec
from tests.orchestrator.simulation import Simulation, apply_option, service_spec, simulate

FIRST, LAST = (int(part) for part in os.environ.get("SWARMPY_SEEDS", "0-60").split("-"))
SERVICES = ("web", "db", "api")


def random_spec(sim: Simulation, name: str) -> ServiceSpec:
    rng = sim.rng
    spec = service_spec(
        name,
        rng.randrange(0, 6),
        restart_delay=rng.choice(["1", "5"]),
        parallelism=rng.choice(["0", "1", "2"]),
        delay=rng.choice(["0", "3"]),
        monitor=rng.choice(["0", "2", "5"]),
        order=rng.choice(["stop-first", "start-first"]),
        on_failure=rng.choice(["pause", "continue", "rollback"]),
        ratio=rng.choice(["0", "0.5"]),
    )
    for option, values in (
        ("memory", ["100", "300"]),
        ("constraint", ["node.labels.disk != hdd"]),
        ("spread", ["node.labels.rack"]),
        ("max_replicas", ["2", "3"]),
        ("publish", ["0", "80"]),
        ("host_port", [str(443 + SERVICES.index(name))]),
    ):
        if rng.random() < 0.25:
            apply_option(spec, option, rng.choice(values))
    return spec


class Monkey:
    """Does one random thing after the other."""

    def __init__(self, sim: Simulation, crashes: bool) -> None:
        self.sim = sim
        self.crashes = crashes

    async def act(self) -> None:
        sim, rng = self.sim, self.sim.rng
        action: Callable[[], object] = rng.choices(
            [self.create, self.change, self.scale, self.ports, self.place, self.fail, self.silence, self.back,
             self.availability, self.label, self.node, self.remove],
            [4, 3, 4, 1, 1, 6, 2, 3, 2, 2, 1, 1],
        )[0]
        try:
            await action()  # type: ignore[misc]  # all of them are coroutine functions
        except Conflict:
            pass                                   # a port in use, or somebody else was faster: nothing happened
        if rng.random() < 0.5:
            await sim.turn(rng.randrange(1, 12))   # somewhere in the middle of what the stages do about it
        else:
            await sim.advance(rng.choice([0, 0.5, 2, 6]))
            sim.check_rest()
        if self.crashes and rng.random() < 0.4:
            await sim.crash(rng.choice(sorted(sim.makers())))

    async def create(self) -> None:
        name = self.sim.rng.choice(SERVICES)
        if self.sim.store.services.by_name(name) is None:
            await self.sim.create_service(random_spec(self.sim, name))

    async def change(self) -> None:
        image = self.sim.rng.choice(["web:1", "web:2", "web:3", "bad", "missing"])
        await self.update(lambda spec: apply_option(spec, "image", image))

    async def scale(self) -> None:
        replicas = str(self.sim.rng.randrange(0, 7))
        await self.update(lambda spec: apply_option(spec, "replicas", replicas))

    async def ports(self) -> None:
        rng = self.sim.rng
        option = rng.choice(["publish", "host_port"])
        number = str(rng.randrange(8000, 8010))

        def change(spec: ServiceSpec) -> None:
            if spec.endpoint.ports and rng.random() < 0.5:
                del spec.endpoint.ports[:]
            else:
                apply_option(spec, option, number)

        await self.update(change)

    async def place(self) -> None:
        """By other constraints, or with other credentials: the same work."""
        option, value = self.sim.rng.choice(
            [("constraint", "node.labels.disk != hdd"), ("constraint", "node.labels.rack == a"), ("auth", "token")]
        )

        def change(spec: ServiceSpec) -> None:
            if option == "constraint":
                del spec.task.placement.constraints[:]
            apply_option(spec, option, value)

        await self.update(change)

    async def update(self, change: Callable[[ServiceSpec], None]) -> None:
        service = self.sim.store.services.by_name(self.sim.rng.choice(SERVICES))
        if service is not None:
            await self.sim.update_service(service.spec.annotations.name, change)

    async def fail(self) -> None:
        node_id = self.sim.rng.choice(sorted(self.sim.agents))
        alive = sorted(task_id for task_id, state in self.sim.agents[node_id].actual.items() if state <= RUNNING)
        if alive:
            state = self.sim.rng.choice([FAILED, FAILED, COMPLETE, REJECTED])
            await self.sim.end(node_id, self.sim.rng.choice(alive), state)

    async def silence(self) -> None:
        await self.sim.silence(self.sim.rng.choice(sorted(self.sim.agents)))

    async def back(self) -> None:
        await self.sim.back(self.sim.rng.choice(sorted(self.sim.agents)))

    async def availability(self) -> None:
        value = self.sim.rng.choice([NodeSpec.ACTIVE, NodeSpec.ACTIVE, NodeSpec.PAUSE, NodeSpec.DRAIN])
        await self.sim.availability(self.sim.rng.choice(sorted(self.sim.agents)), value)

    async def label(self) -> None:
        node_id = self.sim.rng.choice(sorted(self.sim.agents))
        key, values = self.sim.rng.choice([("disk", ["ssd", "hdd"]), ("rack", ["a", "b"])])
        await self.sim.label(node_id, key, self.sim.rng.choice(values))

    async def node(self) -> None:
        if len(self.sim.agents) < 6:
            await self.sim.add_node(f"n{len(self.sim.log.entries)}")
        else:
            await self.sim.remove_node(self.sim.rng.choice(sorted(self.sim.agents)))

    async def remove(self) -> None:
        service = self.sim.store.services.by_name(self.sim.rng.choice(SERVICES))
        if service is not None:
            await self.sim.remove(service)

    async def calm(self) -> None:
        """All nodes are well, images are good, and there is room for everything: now all must come to rest."""
        sim = self.sim
        for number in range(6):
            await sim.add_node(f"spare{number}", memory=5000)
        for node_id in sorted(sim.agents):
            await sim.label(node_id, "disk", "ssd")
            await sim.label(node_id, "rack", "a")
            await sim.back(node_id)
            await sim.availability(node_id, NodeSpec.ACTIVE)
        await sim.advance(0)
        for service in list(sim.store.services.values()):
            await sim.update_service(
                service.spec.annotations.name, lambda spec: apply_option(spec, "image", "web:9")
            )
        await sim.advance(200)


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_laws_hold_and_all_comes_to_rest(seed: int) -> None:
    async def story(sim: Simulation) -> None:
        await sim.cluster(history=sim.rng.choice([0, 1, 5]))
        for number in range(sim.rng.randrange(2, 5)):
            await sim.add_node(f"w{number}", labels={"rack": sim.rng.choice("ab")})
        monkey = Monkey(sim, crashes=seed % 3 > 0)
        for _ in range(60):
            await monkey.act()
        await monkey.calm()
        for service in sim.store.services.values():
            sim.check_converged(service.spec.annotations.name)
        used = {row.template_id for row in (*sim.store.services.values(), *sim.store.tasks.values())}  # type: ignore[attr-defined]
        assert set(sim.store.templates) == used
        assert all(node.status.state == NodeStatus.READY for node in sim.store.nodes.values())
        before = len(sim.log.entries)
        for name in sim.makers():
            await sim.crash(name)
        await sim.advance(600)
        assert len(sim.log.entries) == before, "a new leader found something to change in a swarm at rest"

    simulate(story, seed)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 10))
def test_crashes_do_not_change_where_it_ends(seed: int) -> None:
    """The same orderly day with and without crashes ends with as many tasks of each version on each node."""

    def day(crashes: bool) -> list[tuple[str, str, str]]:
        end: list[tuple[str, str, str]] = []

        async def story(sim: Simulation) -> None:
            await sim.cluster()
            for number in range(3):
                await sim.add_node(f"w{number}")

            async def wait(seconds: float) -> None:
                if crashes:
                    await sim.turn(sim.rng.randrange(1, 8))
                    for name in sim.makers():
                        await sim.crash(name)
                await sim.advance(seconds)

            await sim.create_service(service_spec("web", 6, parallelism=2, delay=1, publish=80))
            await wait(5)
            await sim.silence("w1")
            await wait(5)
            await sim.update_service("web", lambda spec: apply_option(spec, "image", "web:2"))
            await wait(4)
            await sim.back("w1")
            await wait(30)
            await sim.update_service("web", lambda spec: apply_option(spec, "replicas", "9"))
            await wait(10)
            for task in sim.running("web"):
                end.append((task.node_id, sim.image_of(task), task.networks[0].network_id and task.service_name))

        simulate(story, seed)
        return sorted(end)

    assert day(crashes=True) == day(crashes=False)
