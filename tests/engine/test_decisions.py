"""What follows from what: states, restarts, health, lists, events and times."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.detach_keys import DetachKeys, parse_detach_keys
from swarmpy.engine.config import ContainerConfig, HealthConfig, HostConfig, NetworkingConfig, RestartPolicy
from swarmpy.engine.events import Event, EventBus
from swarmpy.engine.filters import Filters
from swarmpy.engine.health import after_probe
from swarmpy.engine.listing import CONTAINER_FILTERS, select
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.restart import after_daemon_start, after_exit
from swarmpy.engine.state import ContainerState, Health, HealthResult, Status, move
from swarmpy.engine.times import format_rfc3339, parse_rfc3339, parse_when
from swarmpy.engine.view import status_text
from swarmpy.errors import Internal, InvalidArgument, NotFound

SECOND = 1_000_000_000


def test_a_state_only_goes_where_the_table_says() -> None:
    running = move(ContainerState(), Status.RUNNING, pid=7)
    assert running.pid == 7
    assert move(running, Status.EXITED).status is Status.EXITED
    for wrong in (Status.CREATED, Status.REMOVING, Status.DEAD):
        with pytest.raises(Internal, match=f"running to {wrong.value}"):
            move(running, wrong)


def test_keys_that_detach() -> None:
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("ctrl-a,x,ctrl-@,ctrl-_") == b"\x01x\x00\x1f"
    for wrong in ("foo", "ctrl-", "ctrl-1", "a,,b", "ctrl-A", "ü"):
        with pytest.raises(InvalidArgument, match="Invalid escape keys"):
            parse_detach_keys(wrong)


@given(st.lists(st.binary(max_size=4)), st.binary(min_size=1, max_size=3))
def test_what_is_typed_before_the_keys_reaches_the_process(pieces: list[bytes], keys: bytes) -> None:
    typed = b"".join(pieces)
    escape = DetachKeys(keys)
    passed = b"".join([escape.feed(piece) for piece in pieces if not escape.pressed])
    before, pressed, _ = typed.partition(keys)
    assert escape.pressed == bool(pressed)
    if pressed:
        assert passed == before
    else:
        assert typed.startswith(passed) and keys.startswith(typed[len(passed) :])


def wait_after(policy: RestartPolicy, code: int = 1, ran_s: float = 0, backoff: int = 0, **state: object) -> int | None:
    before = replace(ContainerState(Status.RUNNING), **state)  # type: ignore[arg-type]  # fields by name
    return after_exit(policy, before, code, int(ran_s * SECOND), backoff).wait_ns


def test_restart_policies() -> None:
    always, failure = RestartPolicy("always"), RestartPolicy("on-failure", 2)
    assert wait_after(RestartPolicy("no")) is None
    assert wait_after(always, 0) == SECOND // 10
    assert wait_after(always, stopped_by_user=True) is None
    assert wait_after(failure, 0) is None
    assert wait_after(failure, 3, restart_count=1) is not None
    assert wait_after(failure, 3, restart_count=2) is None
    assert wait_after(always, backoff=SECOND) == 2 * SECOND
    assert wait_after(always, backoff=50 * SECOND) == 60 * SECOND
    assert wait_after(always, backoff=50 * SECOND, ran_s=11) == SECOND // 10


def test_what_a_daemons_start_brings_back() -> None:
    stopped = ContainerState(Status.EXITED, stopped_by_user=True)
    ended = ContainerState(Status.EXITED)
    assert after_daemon_start(RestartPolicy("always"), stopped)
    assert not after_daemon_start(RestartPolicy("unless-stopped"), stopped)
    assert after_daemon_start(RestartPolicy("unless-stopped"), ended)
    assert not after_daemon_start(RestartPolicy("no"), ended)
    assert not after_daemon_start(RestartPolicy("always"), ContainerState())


def test_health_is_lost_after_retries_and_found_at_once() -> None:
    config = HealthConfig(("CMD", "true"), retries=2, start_period=10 * SECOND)
    bad, good = HealthResult(0, 1, 1, "no"), HealthResult(0, 1, 0, "yes")
    young = after_probe(Health(), bad, config, 5 * SECOND)
    assert (young.status, young.failing_streak) == ("starting", 0)
    once = after_probe(young, bad, config, 11 * SECOND)
    assert (once.status, once.failing_streak) == ("starting", 1)
    twice = after_probe(once, bad, config, 12 * SECOND)
    assert twice.status == "unhealthy"
    assert after_probe(twice, good, config, 13 * SECOND).status == "healthy"
    for _ in range(9):
        twice = after_probe(twice, bad, config, 20 * SECOND)
    assert len(twice.log) == 5


def container(number: int, name: str, status: Status, labels: dict[str, str] | None = None) -> ContainerRecord:
    return ContainerRecord(
        f"{number:064x}", name, number, "sha256:1", "web", ContainerConfig(cmd=("x",), labels=labels or {}),
        HostConfig(network_mode="bridge"), NetworkingConfig(), state=ContainerState(status),
    )  # fmt: skip


RECORDS = [
    container(1, "web.1", Status.RUNNING, {"a": "1", "com.docker.swarm.task.id": "t"}),
    container(2, "web.2", Status.EXITED, {"a": "2"}),
    container(3, "db", Status.RUNNING),
]


def names(filters: dict[str, list[str]], *, show_all: bool = False, limit: int | None = None) -> list[str]:
    def find(name: str) -> ContainerRecord:
        for record in RECORDS:
            if record.name == name:
                return record
        raise NotFound(name)

    parsed = Filters({key: tuple(values) for key, values in filters.items()})
    assert set(filters) <= set(CONTAINER_FILTERS)
    def image_ids(name: str) -> set[str]:
        return {"sha256:1"} if name == "web" else set()

    chosen = select(RECORDS, parsed, show_all=show_all, limit=limit, find=find, image_ids=image_ids)
    return [record.name for record in chosen]


def test_lists() -> None:
    assert names({}) == ["db", "web.1"]
    assert names({}, show_all=True) == ["db", "web.2", "web.1"]
    assert names({}, limit=2) == ["db", "web.2"]
    assert names({"name": ["^web"]}, show_all=True) == ["web.2", "web.1"]
    assert names({"label": ["a"]}, show_all=True) == ["web.2", "web.1"]
    assert names({"label": ["a=1"]}, show_all=True) == ["web.1"]
    assert names({"status": ["exited"]}) == ["web.2"]
    assert names({"is-task": ["true"]}) == ["web.1"]
    assert names({"since": ["web.1"]}, show_all=True) == ["db", "web.2"]
    assert names({"before": ["db"], "status": ["running"]}) == ["web.1"]
    assert names({"ancestor": ["web"], "network": ["bridge"]}) == ["db", "web.1"]
    assert names({"ancestor": ["other"]}) == []
    with pytest.raises(InvalidArgument, match="status=odd"):
        names({"status": ["odd"]})


def test_both_spellings_of_filters() -> None:
    known = ("label", "name")
    assert Filters.parse('{"label":["a","b"]}', known) == Filters.parse('{"label":{"a":true,"b":true}}', known)
    assert Filters.parse(None, known) == Filters()
    for wrong in ("[", "[]", '{"odd":["x"]}', '{"name":[1]}', '{"name":"x"}'):
        with pytest.raises(InvalidArgument):
            Filters.parse(wrong, known)


def test_events_are_replayed_then_followed_and_none_twice() -> None:
    async def scenario() -> list[str]:
        now = 0
        bus = EventBus(lambda: now)
        for now in (1, 2, 3):
            bus.publish("container", "start", f"c{now}", {"name": f"n{now}"})
        seen: list[str] = []
        wanted = Filters({"type": ("container",), "event": ("start", "die")})
        events = bus.subscribe(since_ns=2, filters=wanted)
        late = bus.subscribe()
        seen += [(await anext(events)).actor_id, (await anext(events)).actor_id]
        now = 4
        bus.publish("image", "pull", "i")
        bus.publish("container", "exec_start: sh", "c4")
        bus.publish("container", "die", "c5")
        assert (await anext(late)).actor_id == "i", "nothing is missed before the first await"
        del late
        seen.append((await anext(events)).actor_id)
        await events.aclose()
        bus.publish("container", "start", "c6")
        assert [event async for event in events] == []
        del events
        assert bus.listeners == 0
        past = [event.actor_id async for event in bus.subscribe(since_ns=0, until_ns=2)]
        assert past == ["c1", "c2"]
        return seen

    assert asyncio.run(scenario()) == ["c2", "c3", "c5"]


def test_an_event_keeps_its_old_fields() -> None:
    shown = Event("container", "start", "id", {"image": "web"}, time_ns=5 * SECOND + 7).to_json()
    assert (shown["status"], shown["id"], shown["from"]) == ("start", "id", "web")
    assert (shown["time"], shown["timeNano"]) == (5, 5 * SECOND + 7)


@given(st.integers(0, 4 * 10**18))
def test_times_survive_writing_and_reading(ns: int) -> None:
    if ns:
        assert parse_rfc3339(format_rfc3339(ns)) == ns


def test_times_in_parameters() -> None:
    now = 1000 * SECOND
    assert parse_when("1.5", now) == 3 * SECOND // 2
    assert parse_when("10m", now) == 400 * SECOND
    assert parse_when("1m30s", now) == 910 * SECOND
    assert parse_when("1970-01-01T00:00:01+01:00", now) == -3599 * SECOND
    assert parse_when("0", now) is parse_when(None, now) is None
    assert format_rfc3339(0) == "0001-01-01T00:00:00Z"
    with pytest.raises(InvalidArgument):
        parse_when("yesterday", now)


def test_status_texts() -> None:
    now = 10_000 * SECOND
    running = ContainerState(Status.RUNNING, started_ns=now - 300 * SECOND, health=Health("healthy"))
    assert status_text(running, now) == "Up 5 minutes (healthy)"
    assert status_text(replace(running, status=Status.PAUSED), now) == "Up 5 minutes (Paused)"
    ended = ContainerState(Status.EXITED, exit_code=3, started_ns=1, finished_ns=now - SECOND)
    assert status_text(ended, now) == "Exited (3) 1 second ago"
    assert status_text(ContainerState(), now) == "Created"
