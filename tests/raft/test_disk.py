"""Who waits for the disk: the member's thread for a small write on a quick disk, another thread for the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarmpy.manager.raft.disk import Disk, DiskFailure
from swarmpy.manager.raft.files import DISK
from swarmpy.manager.raft.messages import HardState, Snapshot
from swarmpy.manager.raft.storage import Storage, Write
from tests.raft.cores import normal

KEYS = (bytes(32),)


class Slow:
    """A storage whose writes take as long as it is told; time goes on only while it writes."""

    def __init__(self, storage: Storage) -> None:
        self.now = 0.0
        self.takes = 0.0
        self.go_on = threading.Event()
        self.go_on.set()
        self.written_by: list[str] = []
        self.storage = storage

    def write(self, writes: Sequence[Write]) -> None:
        self.go_on.wait(10)
        self.storage.write(writes)
        self.written_by.append(threading.current_thread().name)
        self.now += self.takes


@contextmanager
def disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Disk, Slow, threading.Event]]:
    storage, _ = Storage.open(directory, KEYS, DISK)
    slow, progress = Slow(storage), threading.Event()
    real = storage.write
    slow.storage = _Plain(real)    # type: ignore[assignment]  # all that Slow asks of it
    monkeypatch.setattr(storage, "write", slow.write)
    made = Disk(storage, progress.set, lambda: slow.now)
    try:
        yield made, slow, progress
    finally:
        slow.go_on.set()
        made.close()


class _Plain:
    def __init__(self, write: Callable[[Sequence[Write]], None]) -> None:
        self.write = write


def one(index: int) -> Write:
    return Write(HardState(1, 1, 0), (normal(index, 1),))


def test_a_small_write_is_durable_when_it_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk(tmp_path, monkeypatch) as (made, slow, _):
        made.submit(1, one(1))
        assert made.durable() == 1
        assert slow.written_by == ["MainThread"]


def test_after_a_slow_write_nobody_waits_until_the_disk_is_quick_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path, monkeypatch) as (made, slow, progress):
        slow.takes = 1.0
        made.submit(1, one(1))
        slow.takes = 0.0
        slow.go_on.clear()
        made.submit(2, one(2))    # would not return if it were waited for
        made.submit(3, one(3))
        assert made.durable() == 1
        slow.go_on.set()
        number = 3
        while slow.written_by[-1] != "MainThread" or len(slow.written_by) == 1:
            assert progress.wait(10)
            while made.durable() < number:
                progress.wait(0.01)
            number += 1
            made.submit(number, one(number))
            assert number < 200
        assert number > 100


def test_a_snapshot_is_waited_for_by_nobody_and_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path, monkeypatch) as (made, slow, progress):
        slow.go_on.clear()
        snapshot = Snapshot(5, 1, b"", b"state")
        made.submit(1, Write(HardState(1, 1, 5), snapshot=snapshot, restore=True))
        made.submit(2, one(6))
        assert made.durable() == 0
        slow.go_on.set()
        while made.durable() < 2:
            assert progress.wait(10)
        assert set(slow.written_by) == {"raft-disk"}
    storage, durable = Storage.open(tmp_path, KEYS, DISK)
    storage.close()
    assert durable.snapshot == snapshot
    assert [entry.index for entry in durable.entries] == [6]


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_write_is_told_to_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool) -> None:
    with disk(tmp_path, monkeypatch) as (made, slow, progress):

        def broken(writes: Sequence[Write]) -> None:
            raise OSError(5, "Input/output error")

        slow.storage.write = broken    # type: ignore[method-assign]
        with pytest.raises(DiskFailure, match=r"cannot be written: .*Input/output error"):
            if wait:
                made.submit(1, one(1))
            else:
                made.submit(1, Write(HardState(1, 1, 5), snapshot=Snapshot(5, 1, b"", b"s"), restore=True))
                assert progress.wait(10)
                made.durable()
