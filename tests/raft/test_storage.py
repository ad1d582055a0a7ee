"""The durable log: what was written comes back, and what was damaged does not."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import Internal
from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.messages import Entry, HardState, Snapshot
from swarmpy.manager.raft.records import record_bytes
from swarmpy.manager.raft.storage import Corrupt, Identity, Storage, Write
from tests.raft.cores import normal

KEY = bytes(range(32))
SMALL = 2048    # bytes of a segment, so that a few writes need several


def opened(directory: Path) -> tuple[Storage, Durable]:
    return Storage.open(directory, KEY, SMALL)


def read(directory: Path) -> Durable:
    storage, durable = opened(directory)
    storage.close()
    return durable


def write(first: int, last: int, term: int = 1, size: int = 10) -> Write:
    entries = tuple(normal(index, term, b"entry %d" % index + bytes(size)) for index in range(first, last + 1))
    return Write(HardState(term, 1, first - 1), entries)


def filled(directory: Path) -> None:
    """Three runs: 1-2, 3 and 4-6, all in one segment."""
    storage, _ = opened(directory)
    storage.set_identity(Identity("c", 1, "n", "h:1"))
    for first, last in ((1, 2), (3, 3), (4, 6)):
        storage.write([write(first, last)])
    storage.close()


def long(directory: Path) -> None:
    """Twenty runs of one entry, in several segments."""
    storage, _ = opened(directory)
    for index in range(1, 21):
        storage.write([write(index, index, size=100)])
    storage.close()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("log-*"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    filled(tmp_path)
    storage, durable = opened(tmp_path)
    assert durable.hard_state == HardState(1, 1, 3)
    assert [entry.index for entry in durable.entries] == [1, 2, 3, 4, 5, 6]
    assert storage.identity() == Identity("c", 1, "n", "h:1")
    storage.close()


def test_the_files_are_the_owners_alone_and_show_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "raft"
    filled(directory)
    storage, _ = opened(directory)
    storage.write([Write(HardState(1, 1, 6), snapshot=Snapshot(6, 1, b"members", b"entry 1"), compact=4)])
    storage.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = {file.name.partition("-")[0] for file in directory.iterdir()}
    assert names == {"lock", "identity", "log", "snapshot"}
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"entry 1" not in file.read_bytes()


def test_a_log_in_use_is_said_to_be_in_use(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    with pytest.raises(Internal, match="in use by another process") as refused:
        opened(tmp_path)
    assert not isinstance(refused.value, Corrupt)
    storage.close()
    read(tmp_path)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(Corrupt, match="record 1"):
        Storage.open(tmp_path, bytes(32))


# Damage.


def test_every_flipped_byte_of_a_segment_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Wherever it lies, either the log opens exactly as it was, or not at all: the last record is no exception."""
    filled(tmp_path)
    expected = read(tmp_path)
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    used = len(whole.rstrip(b"\0"))
    noticed = 0
    for at in (*range(0, used, 7), *range(used, len(whole), 97)):
        flip(segment, at)
        try:
            assert read(tmp_path) == expected, f"byte {at}"
        except Corrupt as found:
            noticed += 1
            assert str(segment) in str(found)
            assert "join again" in str(found)
        segment.write_bytes(whole)
    assert noticed > used / 7 * 0.9    # all but the padding


def test_a_flip_in_the_middle_names_the_record(tmp_path: Path) -> None:
    long(tmp_path)
    first = segments(tmp_path)[0]
    flip(first, 100)
    with pytest.raises(Corrupt, match=r"record 1 was changed or lost, and record 2 behind it is whole"):
        read(tmp_path)


def test_a_flip_in_the_last_record_is_no_torn_write(tmp_path: Path) -> None:
    filled(tmp_path)
    (segment,) = segments(tmp_path)
    used = len(segment.read_bytes().rstrip(b"\0"))
    flip(segment, used - 60)
    with pytest.raises(Corrupt, match="record 3, the last, was changed after it had been written"):
        read(tmp_path)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_segment_that_is_missing_is_missed(tmp_path: Path, which: int) -> None:
    long(tmp_path)
    assert len(segments(tmp_path)) > 2
    segments(tmp_path)[which].unlink()
    with pytest.raises(Corrupt, match="missing"):
        read(tmp_path)


def test_a_segment_from_elsewhere_is_not_taken(tmp_path: Path) -> None:
    for name in ("one", "other"):
        long(tmp_path / name)
    shutil.copy(segments(tmp_path / "other")[1], segments(tmp_path / "one")[2])
    with pytest.raises(Corrupt):
        read(tmp_path / "one")


def test_a_snapshot_that_is_missing_or_changed_is_not_served(tmp_path: Path) -> None:
    long(tmp_path)
    storage, _ = opened(tmp_path)
    storage.write([Write(HardState(1, 1, 20), snapshot=Snapshot(20, 1, b"m", b"state" * 100), compact=15)])
    storage.close()
    (file,) = tmp_path.glob("snapshot-*")
    whole = file.read_bytes()
    for at in range(0, len(whole), 41):
        flip(file, at)
        with pytest.raises(Corrupt, match=file.name):
            read(tmp_path)
        file.write_bytes(whole)
    file.unlink()
    with pytest.raises(Corrupt, match=rf"{file.name} is damaged: it is missing"):
        read(tmp_path)


def test_a_changed_identity_is_not_believed(tmp_path: Path) -> None:
    filled(tmp_path)
    flip(tmp_path / "identity", 50)
    storage, _ = opened(tmp_path)
    with pytest.raises(Corrupt, match="identity"):
        storage.identity()
    storage.close()


# Crashes.


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path / "source")
    for index in range(1, 21):
        storage.write([write(index, index)])
    shutil.copytree(tmp_path / "source", tmp_path / "target")
    storage.close()
    assert len(read(tmp_path / "target").entries) == 20


def test_a_write_cut_short_at_any_sector_is_dropped_alone_and_written_over(tmp_path: Path) -> None:
    storage, _ = Storage.open(tmp_path / "source", KEY)
    for index in range(1, 8):
        storage.write([write(index, index)])
    (segment,) = segments(tmp_path / "source")
    before = segment.read_bytes()
    start = len(before.rstrip(b"\0"))
    storage.write([write(8, 8, size=3000)])
    storage.close()
    after = segment.read_bytes()
    end = len(after.rstrip(b"\0"))
    sectors = range(start // 512, -(-end // 512))
    assert len(sectors) > 5
    for lost in sectors:
        directory = tmp_path / f"lost-{lost}"
        shutil.copytree(tmp_path / "source", directory)
        torn = after[: lost * 512] + before[lost * 512 : (lost + 1) * 512] + after[(lost + 1) * 512 :]
        segments(directory)[0].write_bytes(torn)
        assert [entry.index for entry in read(directory).entries] == [1, 2, 3, 4, 5, 6, 7]
        storage, _ = Storage.open(directory, KEY)
        storage.write([write(8, 9)])
        storage.close()
        assert [entry.index for entry in read(directory).entries] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


class PowerCut(BaseException):
    """Not an Exception: nothing on its way may think that it can go on."""


class Power:
    """Lets so many calls through that change the disk; of the one it is cut in, some sectors or nothing reach it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int, random: Random) -> None:
        self.calls, self.random, self.was_cut = calls, random, False
        for name in ("pwritev", "rename", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name), partial=name == "pwritev"))

    def _guarded(self, call: Callable[..., Any], *, partial: bool) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            if self.was_cut:
                raise PowerCut
            if self.calls:
                self.calls -= 1
                return call(*arguments, **named)
            self.was_cut = True
            if partial:
                self._some_sectors(call, *arguments)
            elif self.random.random() < 0.5:
                call(*arguments, **named)
            raise PowerCut

        return guarded

    def _some_sectors(self, call: Callable[..., Any], fd: int, views: list[memoryview], at: int, flags: int) -> None:
        (view,) = views
        start = at
        while start < at + len(view):
            end = min(at + len(view), (start // 512 + 1) * 512)
            if self.random.random() < 0.5:
                call(fd, [view[start - at : end - at]], start, flags)
            start = end


@pytest.mark.parametrize("seed", range(120))
def test_a_power_cut_leaves_all_that_was_acknowledged_and_nothing_by_halves(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    storage, model = opened(tmp_path)[0], Model()
    with pytest.MonkeyPatch.context() as monkeypatch:
        power = Power(monkeypatch, random.randrange(40), random)
        under_way = None
        try:
            for number in range(40):
                under_way = random_write(model, number // 3 + 1, random)
                storage.write([under_way])
                model.write(under_way)
                under_way = None
        except PowerCut:
            pass
    storage.close()
    storage, durable = opened(tmp_path)
    if not model.agrees(durable):
        assert under_way is not None
        model.write(under_way)
        assert model.agrees(durable)
    further = random_write(model, 50, random)
    storage.write([further])
    storage.close()
    model.write(further)
    assert model.agrees(read(tmp_path))
    assert power.was_cut or not power.calls or under_way is None


def test_a_full_disk_fails_the_write_and_what_was_written_before_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _ = opened(tmp_path)
    storage.write([write(1, 1)])
    real = os.pwritev

    def full(fd: int, views: list[memoryview], at: int, flags: int) -> int:
        if len(views[0]) == SMALL:    # a new segment
            real(fd, [views[0][:600]], at, flags)
            raise OSError(28, "No space left on device")
        return real(fd, views, at, flags)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        last = 1
        with pytest.raises(OSError, match="No space left"):
            for last in range(2, 30):
                storage.write([write(last, last)])
    storage.close()
    storage, durable = opened(tmp_path)
    assert len(durable.entries) == last - 1 > 5
    storage.write([write(last, last)])
    storage.close()
    assert len(read(tmp_path).entries) == last


def test_opening_writes_again_what_a_failed_sync_may_have_left_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    written: list[bytes] = []
    real = os.pwritev

    def note(fd: int, views: list[memoryview], at: int, flags: int) -> int:
        assert flags == os.RWF_DSYNC
        written.append(bytes(views[0]))
        return real(fd, views, at, flags)

    monkeypatch.setattr(os, "pwritev", note)
    read(tmp_path)
    assert written == [segments(tmp_path)[0].read_bytes()]


def test_a_disk_that_cannot_be_read_is_said_to_be_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)

    def broken(self: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(Internal, match="Input/output error"):
        read(tmp_path)


# Space.


def test_segments_go_with_their_entries_and_snapshots_when_a_newer_one_counts(tmp_path: Path) -> None:
    long(tmp_path)
    storage, _ = opened(tmp_path)
    many = len(segments(tmp_path))
    for index in (10, 18):
        storage.write([Write(HardState(1, 1, 20), snapshot=Snapshot(index, 1, b"m", b"s"), compact=index - 2)])
    storage.close()
    assert 1 <= len(segments(tmp_path)) < many
    assert [int(path.name.removeprefix("snapshot-"), 16) for path in tmp_path.glob("snapshot-*")] == [18]
    durable = read(tmp_path)
    assert durable.snapshot == Snapshot(18, 1, b"m", b"s")
    assert durable.offset <= 16
    assert durable.entries[-1].index == 20


def test_an_entry_larger_than_a_segment_gets_a_segment_of_its_size(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.write([write(1, 1), write(2, 2, size=10 * SMALL), write(3, 3)])
    storage.write([write(4, 4, size=3 * SMALL)])
    storage.close()
    assert [len(entry.data) > SMALL for entry in read(tmp_path).entries] == [False, True, False, True]
    assert max(path.stat().st_size for path in segments(tmp_path)) < 12 * SMALL
    assert record_bytes(1) == 96


class Model:
    """What the storage should hold, kept plainly."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.snapshot: Snapshot | None = None
        self.hard_state = HardState()

    @property
    def base(self) -> int:
        return self.snapshot.index if self.snapshot else 0

    @property
    def last(self) -> int:
        return max(self.entries, default=self.base)

    def write(self, write: Write) -> None:
        self.hard_state = write.hard_state
        if write.snapshot is not None:
            self.snapshot = write.snapshot
            if write.restore:
                self.entries.clear()
        if write.entries:
            self.entries = {i: e for i, e in self.entries.items() if i < write.entries[0].index}
            self.entries |= {entry.index: entry for entry in write.entries}

    def agrees(self, durable: Durable) -> bool:
        return (
            (durable.snapshot, durable.hard_state) == (self.snapshot, self.hard_state)
            and durable.offset <= self.base
            and all(self.entries.get(entry.index) == entry for entry in durable.entries)
            and (durable.entries[-1].index if durable.entries else durable.offset) == self.last
        )


def random_write(model: Model, term: int, random: Random) -> Write:
    """Append, replace the end, take a snapshot, or start over from another's."""
    base = model.base
    state = HardState(term, random.randrange(4), base)
    kind = random.choice(("append", "append", "append", "replace", "snapshot", "restore"))
    if kind == "replace" and model.last > base:
        first = random.randint(base + 1, model.last)
        return Write(state, _entries(first, term, random))
    if kind == "snapshot" and model.last > base:
        index = random.randint(base + 1, model.last)
        snapshot = Snapshot(index, model.entries[index].term, b"m", b"s%d" % index + bytes(random.randrange(900)))
        return Write(state, snapshot=snapshot, compact=max(0, index - random.randrange(4)))
    if kind == "restore":
        snapshot = Snapshot(model.last + 3, term, b"m", b"r" * random.randrange(900))
        more = _entries(snapshot.index + 1, term, random) if random.random() < 0.5 else ()
        return Write(HardState(term, 0, snapshot.index), more, snapshot=snapshot, restore=True)
    return Write(state, _entries(model.last + 1, term, random))


def _entries(first: int, term: int, random: Random) -> tuple[Entry, ...]:
    count = random.randint(1, 3)
    return tuple(normal(index, term, b"%d." % term + random.randbytes(random.randrange(300))) for index in
                 range(first, first + count))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 25))
def test_any_sequence_of_writes_reads_back_as_a_plain_model_says(seed: int, length: int) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as name:
        storage, model = opened(Path(name))[0], Model()
        for number in range(length):
            batch = []
            for _ in range(random.randint(1, 3)):
                batch.append(random_write(model, number + 1, random))
                model.write(batch[-1])
            storage.write(batch)
            if random.random() < 0.5:
                storage.close()
                storage, durable = opened(Path(name))
                assert model.agrees(durable)
        storage.close()
