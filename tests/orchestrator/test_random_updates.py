"""One service, changed again before the last change is through, on nodes that take their time.

Random updates, rollbacks and scalings, failures, slow stops, slow reports, nodes that go and come back, and new leaders
with other clocks. The laws are checked after every log entry; once only good versions are left to roll out, an update
may not stand still. `SWARMPY_SEEDS=1000-2000 pytest tests/orchestrator/test_random_updates.py` runs other seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.rpc.types_pb2 import COMPLETE, FAILED, RUNNING, NodeSpec, ServiceSpec, UpdateStatus
from tests.orchestrator.agent import Pace
from tests.orchestrator.simulation import SECOND, Simulation, apply_option, service_spec, simulate

FIRST, LAST = (int(part) for part in os.environ.get("SWARMPY_SEEDS", "0-40").split("-"))
STANDSTILL_S = 60       # longer than any stop, start, delay, restart delay and report together


def pace(sim: Simulation) -> Pace:
    """Of one swarm: quick, or as slow as a busy machine."""
    rng = sim.rng
    slowest = rng.choice([0, 1, 4])
    grace = rng.choice([0, 1, 10])

    def up_to(seconds: float) -> Callable[[], int]:
        return lambda: round(rng.uniform(0, seconds) * SECOND)

    return Pace(up_to(slowest / 4), up_to(grace), up_to(slowest / 2))


def random_spec(sim: Simulation) -> ServiceSpec:
    rng = sim.rng
    spec = service_spec("web", rng.randrange(1, 8), restart_delay=rng.choice(["0.5", "1", "5"]))
    for option in ("", "rollback_"):
        for key, values in (
            ("parallelism", ["0", "1", "1", "2", "3"]), ("delay", ["0", "0", "4"]), ("monitor", ["0", "2", "5"]),
            ("order", ["stop-first", "stop-first", "start-first"]), ("ratio", ["0", "0.3"]),
            ("on_failure", ["pause", "continue"] if option else ["pause", "continue", "rollback"]),
        ):
            apply_option(spec, option + key, rng.choice(values))
    if rng.random() < 0.3:
        apply_option(spec, "max_replicas", str(rng.choice([5, 6])))
    return spec


class User:
    """Asks for one thing after the other, while things happen to the swarm."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    async def act(self) -> None:
        sim, rng = self.sim, self.sim.rng
        await rng.choices(
            [self.update, self.roll_back, self.scale, self.settings, self.fail, self.node, self.new_leader, self.crash],
            [5, 3, 3, 1, 3, 2, 2, 1],
        )[0]()
        if rng.random() < 0.4:
            await sim.turn(rng.randrange(1, 12))
        else:
            await sim.advance(rng.choice([0, 0.3, 1, 3, 8, 30]))

    async def change(self, change: Callable[[ServiceSpec], None]) -> None:
        """Whose request was made for a version that is gone meanwhile asks again."""
        while True:
            try:
                await self.sim.update_service("web", change)
            except Conflict:
                continue
            return

    async def set(self, key: str, value: str) -> None:
        await self.change(lambda spec: apply_option(spec, key, value))

    async def update(self) -> None:
        await self.set("image", self.sim.rng.choice(["web:1", "web:2", "web:3", "bad", "missing"]))

    async def roll_back(self) -> None:
        while True:
            try:
                await self.sim.roll_back("web")
            except InvalidArgument:
                assert not self.sim.store.services["id-web"].HasField("previous_spec")
            except Conflict:
                continue
            return

    async def scale(self) -> None:
        await self.set("replicas", str(self.sim.rng.randrange(0, 9)))

    async def settings(self) -> None:
        """Other rules for this update, and perhaps other tasks too."""
        spec = random_spec(self.sim)
        image = self.sim.rng.choice(["web:1", "web:2"])

        def change(present: ServiceSpec) -> None:
            present.update.CopyFrom(spec.update)
            present.rollback.CopyFrom(spec.rollback)
            apply_option(present, "image", image)

        await self.change(change)

    async def fail(self) -> None:
        running = self.sim.running("web")
        if running:
            task = self.sim.rng.choice(running)
            agent = self.sim.agents[task.node_id]
            if agent.connected and agent.actual.get(task.id) == RUNNING:
                await self.sim.end(task.node_id, task.id, self.sim.rng.choice([FAILED, COMPLETE]))

    async def node(self) -> None:
        sim, rng = self.sim, self.sim.rng
        name = rng.choice(sorted(sim.agents))
        what = rng.randrange(4)
        if what == 0:
            await sim.silence(name)
        elif what == 1:
            await sim.availability(name, rng.choice([NodeSpec.DRAIN, NodeSpec.PAUSE]))
        else:
            await self.mend(name)

    async def mend(self, name: str) -> None:
        if not self.sim.agents[name].connected:
            await self.sim.back(name)
        await self.sim.availability(name, NodeSpec.ACTIVE)

    async def new_leader(self) -> None:
        await self.sim.new_leader(ahead_s=self.sim.rng.uniform(-0.5, 0.5))

    async def crash(self) -> None:
        await self.sim.crash(self.sim.rng.choice(sorted(self.sim.makers())))


async def comes_through(sim: Simulation) -> None:
    """The update goes on until it is over, and never stands still."""
    while True:
        before = situation(sim)
        await sim.advance(STANDSTILL_S)
        service = sim.store.services["id-web"]
        if service.update_status.state not in (UpdateStatus.UPDATING, UpdateStatus.ROLLBACK_STARTED):
            break
        assert situation(sim) != before, f"nothing happened for {STANDSTILL_S} s: {before}"
    await sim.advance(STANDSTILL_S)
    sim.check_converged("web")


def situation(sim: Simulation) -> object:
    service = sim.store.services["id-web"]
    tasks = [(task.slot, task.id, task.status.state) for task in sim.store.tasks.values()]
    return UpdateStatus.State.Name(service.update_status.state), sorted(tasks)


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_an_update_of_good_versions_comes_through(seed: int) -> None:
    async def story(sim: Simulation) -> None:
        rng = sim.rng
        sim.pace = pace(sim)
        await sim.cluster(history=rng.choice([0, 1, 5]))
        for number in range(rng.randrange(2, 4)):
            await sim.add_node(f"w{number}")
        await sim.create_service(random_spec(sim))
        user = User(sim)
        for _ in range(25):
            await user.act()
        for name in sorted(sim.agents):
            await user.mend(name)
        await user.set("image", rng.choice(["web:1", "web:2", "web:3"]))
        if rng.random() < 0.5:
            await comes_through(sim)
            await user.set("image", rng.choice(["web:1", "web:2", "web:3"]))
            await sim.advance(rng.choice([0, 1, 5, 60]))
            await user.roll_back()
        await comes_through(sim)

    simulate(story, seed)
