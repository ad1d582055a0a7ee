"""What a crash leaves of a container's files is what was last told of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swarmpy.engine.config import ContainerConfig, HostConfig, NetworkingConfig
from swarmpy.engine.record import ContainerRecord, Endpoint, RecordStore
from swarmpy.engine.state import Health, HealthResult, Status

CREATED = ContainerRecord(
    id="c1", name="box", created_ns=1, image_id="sha256:0", image_name="busybox",
    config=ContainerConfig(image="busybox"), host=HostConfig(), networking=NetworkingConfig(),
)  # fmt: skip
RUNNING = replace(
    CREATED,
    state=replace(
        CREATED.state, status=Status.RUNNING, pid=7, health=Health("healthy", 0, (HealthResult(1, 2, 0, "fine"),))
    ),
    endpoints=(Endpoint("bridge", "172.17.0.2", 16),),
    ports=(("80/tcp", "0.0.0.0", "8080"),),
)
EXITED = replace(CREATED, state=replace(CREATED.state, status=Status.EXITED, exit_code=3))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    made = RecordStore(tmp_path)
    made.create(CREATED)
    return made


def states(store: RecordStore) -> Path:
    return store.directory("c1") / "state.jsonl"


def test_the_last_state_counts(store: RecordStore) -> None:
    assert store.load().records == (CREATED,)
    for record in (RUNNING, EXITED, RUNNING):
        store.save_state(record)
        assert store.load().records == (record,)


def test_a_state_that_did_not_get_on_disk_whole_was_never_told_of(store: RecordStore) -> None:
    store.save_state(RUNNING)
    before = states(store).read_bytes()
    store.save_state(EXITED)
    after = states(store).read_bytes()
    for length in (*range(len(before), len(before) + 20), *range(len(after) - 20, len(after) - 1)):
        states(store).write_bytes(after[:length])
        assert store.load().records == (RUNNING,)
    store.save_state(EXITED)
    assert store.load().records == (EXITED,)
    states(store).write_bytes(before + bytes(4096))      # a file system that had the size on disk before the data
    assert store.load().records == (RUNNING,)


def test_a_long_life_does_not_fill_the_disk(store: RecordStore) -> None:
    wordy = replace(RUNNING, state=replace(RUNNING.state, error="x" * 10_000))
    for _ in range(20):
        store.save_state(wordy)
        store.save_state(EXITED)
        assert states(store).stat().st_size <= 64 << 10
    assert store.load().records == (EXITED,)


def test_of_a_start_that_did_not_get_on_disk_whole_nobody_was_told(store: RecordStore) -> None:
    store.save_state(RUNNING)
    whole = states(store).read_bytes()
    for length in range(len(whole) - 1):
        for tail in (b"", bytes(len(whole) - length)):
            states(store).write_bytes(whole[:length] + tail)
            assert store.load().records == (CREATED,)
    store.save_state(RUNNING)
    assert store.load().records == (RUNNING,)


def test_files_that_say_nothing_are_reported_and_left(store: RecordStore) -> None:
    states(store).write_bytes(b"\nnothing\n")
    loaded = store.load()
    assert loaded.records == ()
    assert "state.jsonl has no whole line" in loaded.unreadable["c1"]
    assert states(store).read_bytes() == b"\nnothing\n"


@pytest.mark.parametrize("left", [None, b"", b'{"id": "c1", "na', bytes(300)])
def test_a_creation_that_never_finished_is_taken_away(store: RecordStore, left: bytes | None) -> None:
    config = store.directory("c1") / "config.json"
    config.unlink()
    if left is not None:
        config.write_bytes(left)
    assert store.load().records == ()
    assert not store.directory("c1").exists()


def test_a_damaged_container_that_ran_once_is_reported_and_left(store: RecordStore) -> None:
    store.save_state(EXITED)
    (store.directory("c1") / "config.json").write_bytes(b"")
    assert store.load().records == ()
    assert list(store.load().unreadable) == ["c1"]


@pytest.mark.parametrize("durably", [True, False])
def test_what_is_forgotten_does_not_come_back(store: RecordStore, *, durably: bool) -> None:
    store.save_state(EXITED)
    store.forget("c1", durably=durably)
    assert store.directory("c1").exists()
    assert store.load().records == ()
    assert not store.directory("c1").exists()
    store.forget("c1", durably=durably)
    store.remove("c1")
