"""The durable log: what was written comes back, and what was damaged does not."""

from __future__ import annotations

import errno
import itertools
import shutil
import stat
import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import Internal
from swarmpy.manager.raft import snapshot_file
from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.files import DISK, File, Files
from swarmpy.manager.raft.messages import Entry, HardState, Snapshot
from swarmpy.manager.raft.records import record_bytes
from swarmpy.manager.raft.seal import OVERHEAD_BYTES, Keys, Sealer
from swarmpy.manager.raft.storage import Corrupt, Identity, Storage, Write
from tests.raft.cores import normal
from tests.raft.faulty import FaultyDisk, PowerCut

KEYS = (bytes(range(32)),)
SMALL = 2048    # bytes of a segment, so that a few writes need several


def opened(directory: Path, files: Files = DISK) -> tuple[Storage, Durable]:
    return Storage.open(directory, KEYS, files, SMALL)


def read(directory: Path) -> Durable:
    storage, durable = opened(directory)
    storage.close()
    return durable


def read_copy(directory: Path) -> Durable:
    """What another process would find there, if this one ended now."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(directory, name, dirs_exist_ok=True)
        return read(Path(name))


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
    assert storage.identity == Identity("c", 1, "n", "h:1")
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
    with pytest.raises(Corrupt, match=r"identity is damaged: .* sealed under another key"):
        Storage.open(tmp_path, (bytes(32),), DISK)
    (tmp_path / "identity").unlink()
    with pytest.raises(Corrupt, match="record 1"):
        Storage.open(tmp_path, (bytes(32),), DISK)


# Damage.


NEW_KEYS = (bytes(range(1, 33)), *KEYS)


def test_a_new_key_seals_all_that_is_there_anew(tmp_path: Path) -> None:
    long(tmp_path)
    storage, _ = opened(tmp_path)
    storage.set_identity(Identity("c", 1, "n", "h:1"))
    storage.write([Write(HardState(1, 1, 10), snapshot=Snapshot(10, 1, b"m", b"s"), compact=5)])
    names = sorted(path.name for path in tmp_path.iterdir())
    storage.take_keys(Keys(NEW_KEYS))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    storage.write([write(21, 22)])
    storage.close()
    with pytest.raises(Corrupt):
        opened(tmp_path)
    storage, durable = Storage.open(tmp_path, NEW_KEYS[:1], DISK, SMALL)
    storage.close()
    assert (storage.identity, durable.snapshot) == (Identity("c", 1, "n", "h:1"), Snapshot(10, 1, b"m", b"s"))
    assert [entry.index for entry in durable.entries][-13:] == list(range(10, 23))


@pytest.mark.parametrize("seed", range(60))
def test_a_disk_that_fails_while_all_is_sealed_anew_loses_nothing(tmp_path: Path, seed: int) -> None:
    """Nothing of it needs another key than the two, wherever it stops."""
    random = Random(seed)
    model, _ = writes_until_a_failure(tmp_path, FaultyDisk(tmp_path, random), random)
    wrong = random.choice((FaultyDisk.POWER, errno.ENOSPC, errno.EIO, FaultyDisk.LOST))
    disk = FaultyDisk(tmp_path, random)
    storage, _ = opened(tmp_path, disk)
    disk.fault = nth_call(random.randrange(30), wrong)
    with suppress(OSError, PowerCut):
        storage.take_keys(Keys(NEW_KEYS))
    storage.close()
    disk.fault = lambda call, path: 0
    storage, durable = Storage.open(tmp_path, NEW_KEYS, disk.cut_power(), SMALL)
    assert model.agrees(durable)
    further = random_write(model, model.hard_state.term + 1, random)
    storage.write([further])
    model.write(further)
    storage.take_keys(Keys(NEW_KEYS))
    storage.close()
    storage, durable = Storage.open(tmp_path, NEW_KEYS[:1], DISK, SMALL)
    storage.close()
    assert model.agrees(durable)


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
            assert "docker node demote" in str(found)
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


def with_snapshot(directory: Path, data: bytes) -> Path:
    """A log of twenty entries and a snapshot of them; its file."""
    long(directory)
    storage, _ = opened(directory)
    storage.write([Write(HardState(1, 1, 20), snapshot=Snapshot(20, 1, b"m", data), compact=15)])
    storage.close()
    (file,) = directory.glob("snapshot-*")
    return file


@pytest.mark.parametrize("part_bytes", [64, 1 << 20])
def test_a_snapshot_that_is_missing_or_changed_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(snapshot_file, "PART_BYTES", part_bytes)
    file = with_snapshot(tmp_path, b"state" * 100)
    whole = file.read_bytes()
    for at in range(0, len(whole), 41):
        flip(file, at)
        with pytest.raises(Corrupt, match=file.name):
            read(tmp_path)
        file.write_bytes(whole)
    file.unlink()
    with pytest.raises(Corrupt, match=rf"{file.name} is damaged: it is missing"):
        read(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 64 * 8, 64 * 17 + 1])
def test_a_snapshot_of_any_length_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(snapshot_file, "PART_BYTES", 64)
    data = bytes(number % 251 for number in range(length))
    with_snapshot(tmp_path, data)
    assert read(tmp_path).snapshot == Snapshot(20, 1, b"m", data)


def test_a_part_of_a_snapshot_that_is_missing_doubled_or_elsewhere_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "PART_BYTES", 64)
    file = with_snapshot(tmp_path, bytes(64 * 4))
    whole, sealed = file.read_bytes(), 64 + OVERHEAD_BYTES
    head, body = whole[: -4 * sealed], whole[-4 * sealed :]
    parts = [body[at : at + sealed] for at in range(0, len(body), sealed)]
    assert b"".join((head, *parts)) == whole
    a, b, c, d = parts
    foreign = [with_snapshot(tmp_path / "other", bytes(64 * 4)).read_bytes()[len(head) :][:sealed], b, c, d]
    for others in (foreign, (a, b, c), (b, c, d), (a, b, c, d, d), (b, a, c, d), (a, a, c, d), ()):
        file.write_bytes(b"".join((head, *others)))
        with pytest.raises(Corrupt, match=file.name):
            read(tmp_path)
    file.write_bytes(head[4:])          # nor is the head taken for a file of the older form
    with pytest.raises(Corrupt, match=file.name):
        read(tmp_path)


def test_a_snapshot_that_was_sealed_in_one_piece_is_read(tmp_path: Path) -> None:
    """As it was done before there were parts."""
    file = with_snapshot(tmp_path, b"new")
    plain = struct.pack("<QI", 1, 1) + b"m" + b"state"
    file.write_bytes(Sealer(KEYS).seal(plain, b"snapshot 20"))
    assert read(tmp_path).snapshot == Snapshot(20, 1, b"m", b"state")


def test_a_changed_identity_is_not_believed(tmp_path: Path) -> None:
    filled(tmp_path)
    flip(tmp_path / "identity", 50)
    with pytest.raises(Corrupt, match="identity"):
        opened(tmp_path)


# Crashes.


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path / "source")
    for index in range(1, 21):
        storage.write([write(index, index)])
    shutil.copytree(tmp_path / "source", tmp_path / "target")
    storage.close()
    assert len(read(tmp_path / "target").entries) == 20


def test_a_write_cut_short_at_any_sector_is_dropped_alone_and_written_over(tmp_path: Path) -> None:
    storage, _ = Storage.open(tmp_path / "source", KEYS, DISK)
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
        storage, _ = Storage.open(directory, KEYS, DISK)
        storage.write([write(8, 9)])
        storage.close()
        assert [entry.index for entry in read(directory).entries] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("seed", range(200))
def test_a_power_cut_leaves_all_that_was_acknowledged_and_nothing_by_halves(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    calls = random.randrange(60)
    disk = FaultyDisk(tmp_path, random, nth_call(calls, FaultyDisk.POWER))
    model, under_way = writes_until_a_failure(tmp_path, disk, random)
    goes_on(tmp_path, disk.cut_power(), model, under_way, random)


@pytest.mark.parametrize("seed", range(300))
def test_a_disk_that_fails_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    """Full or broken, at any call, three times, with the process started again each time, and the power cut at last."""
    random = Random(seed)
    disk, model = FaultyDisk(tmp_path, random), Model()
    for _ in range(3):
        disk.fault = nth_call(random.randrange(40), random.choice((errno.ENOSPC, errno.EIO)))
        _, under_way = writes_until_a_failure(tmp_path, disk, random, model)
        disk.fault = lambda call, path: 0
        goes_on(tmp_path, disk, model, under_way, random)
    goes_on(tmp_path, disk.cut_power(), model, None, random)


@pytest.mark.parametrize("seed", range(20))
def test_a_disk_that_takes_less_at_a_time_than_it_is_given_is_given_the_rest(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    disk = FaultyDisk(tmp_path, random, lambda call, path: FaultyDisk.SHORT if call == "write" else 0)
    model, under_way = writes_until_a_failure(tmp_path, disk, random)
    assert under_way is None
    goes_on(tmp_path, disk.cut_power(), model, None, random)


def test_a_disk_that_takes_nothing_is_no_endless_loop(tmp_path: Path) -> None:
    class Stuck(Files):
        def write(self, file: File, data: memoryview, at: int) -> int:
            return 0

    storage, _ = opened(tmp_path, Stuck())
    with pytest.raises(OSError, match=r"took nothing.*log-"):
        storage.write([write(1, 1)])
    storage.close()


def test_a_write_that_stopped_at_any_byte_is_dropped_alone(tmp_path: Path) -> None:
    """As a write that fails may: the disk took its beginning, and nobody was told that it is durable."""
    filled(tmp_path)
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    expected = read(tmp_path)
    storage, _ = opened(tmp_path)
    storage.write([write(7, 7)])
    storage.close()
    after = segment.read_bytes()
    start, end = len(whole.rstrip(b"\0")), len(after.rstrip(b"\0"))
    for stopped in range(start, end):
        segment.write_bytes(after[:stopped].ljust(len(after), b"\0"))
        durable = read(tmp_path)
        if durable != expected:
            assert stopped > end - 32 and durable.entries[-1].index == 7    # but padding, it was all there
    segment.write_bytes(after)
    assert read(tmp_path).entries[-1].index == 7


@pytest.mark.parametrize("call", ["write", "rename", "sync", "create"])
def test_a_full_disk_fails_the_write_and_what_was_written_before_is_there_again(tmp_path: Path, call: str) -> None:
    """Where a new segment is begun, of which any part may be there."""
    disk = FaultyDisk(tmp_path, Random(call))
    storage, _ = opened(tmp_path, disk)
    storage.write([write(1, 1)])
    count = len(segments(tmp_path))

    def full(made: str, path: Path) -> int:
        return errno.ENOSPC if made == call and (".new" in path.name or call == "sync") else 0

    disk.fault = full
    last = 1
    with pytest.raises(OSError, match="No space left"):
        for last in range(2, 30):
            storage.write([write(last, last)])
    storage.close()
    assert len(segments(tmp_path)) <= count + 1
    disk.fault = lambda call, path: 0
    storage, durable = opened(tmp_path, disk)
    assert len(durable.entries) == last - 1 > 5
    storage.write([write(last, last)])
    storage.close()
    disk.cut_power()
    assert len(read(tmp_path).entries) == last


def test_a_disk_that_cannot_forget_what_is_compacted_loses_nothing(tmp_path: Path) -> None:
    long(tmp_path)
    disk = FaultyDisk(tmp_path, Random(1), lambda call, path: errno.ENOSPC if call == "unlink" else 0)
    storage, _ = opened(tmp_path, disk)
    snapshot = Snapshot(18, 1, b"m", b"s")
    with pytest.raises(OSError, match=r"No space left.*log-"):
        storage.write([Write(HardState(1, 1, 20), snapshot=snapshot, compact=16)])
    storage.close()
    disk.cut_power()
    durable = read(tmp_path)
    assert durable.snapshot == snapshot
    assert durable.entries[-1].index == 20


@pytest.mark.parametrize("name", ["identity", "log-*", "snapshot-*"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    storage, _ = opened(tmp_path)
    storage.write([Write(HardState(1, 1, 6), snapshot=Snapshot(6, 1, b"members", b"state"), compact=4)])
    storage.close()
    disk = FaultyDisk(tmp_path, Random(1), lambda call, path: errno.EIO if call == "read" and path.match(name) else 0)
    with pytest.raises(Internal, match=rf"Input/output error.*{name.rstrip('*')}") as refused:
        opened(tmp_path, disk)
    assert not isinstance(refused.value, Corrupt)


def test_what_a_failed_sync_left_in_the_cache_is_synced_before_it_is_believed(tmp_path: Path) -> None:
    """The sync of the record that ends a segment fails; the log is opened again, goes on, and the power is cut."""
    disk = FaultyDisk(tmp_path, Random(1))
    storage, _ = opened(tmp_path, disk)
    calls: list[str] = []

    def end_is_lost(call: str, path: Path) -> int:
        calls.append(call)
        begun = len(segments(tmp_path)) == 2 and calls[-2:] == ["sync", "write"]
        return FaultyDisk.LOST if begun else 0

    disk.fault = end_is_lost
    last = 0
    with pytest.raises(OSError, match="Input/output error"):
        for last in range(1, 30):
            storage.write([write(last, last)])
    storage.close()
    disk.fault = lambda call, path: 0
    storage, durable = opened(tmp_path, disk)
    assert len(durable.entries) == last - 1
    storage.write([write(last, last)])
    storage.close()
    disk.cut_power()
    assert len(read(tmp_path).entries) == last


def test_a_log_of_an_older_swarmpy_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "raft.db").write_bytes(b"SQLite format 3")
    with pytest.raises(Internal, match=r"raft\.db was written by an older swarmpy.*docker node demote"):
        opened(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"raft.db", "lock"}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_flipped_bit_in_any_file_is_refused_by_its_name_or_harmless(seed: int) -> None:
    """Whatever the log went through before: no entry and no vote is lost to it, or changed."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        storage, model = opened(directory)[0], Model()
        storage.set_identity(Identity("c", 1, "n", "h:1"))
        for number in range(random.randint(1, 15)):
            one = random_write(model, number + 1, random)
            storage.write([one])
            model.write(one)
        storage.close()
        file = random.choice([path for path in directory.iterdir() if path.name != "lock"])
        data = bytearray(file.read_bytes())
        used = len(data.rstrip(b"\0"))
        data[random.randrange(min(len(data), used + 40))] ^= 1 << random.randrange(8)
        file.write_bytes(data)
        try:
            storage, durable = opened(directory)
        except Corrupt as refusal:
            assert str(file) in str(refusal)
        else:
            assert storage.identity == Identity("c", 1, "n", "h:1")
            storage.close()
            assert model.agrees(durable)


def nth_call(number: int, wrong: int) -> Callable[[str, Path], int]:
    """A fault of that call to the disk, and of no other."""
    calls = itertools.count()
    return lambda call, path: wrong if next(calls) == number else 0


def writes_until_a_failure(
    directory: Path, disk: FaultyDisk, random: Random, model: Model | None = None
) -> tuple[Model, Write | None]:
    """What was acknowledged, and the write under way when the disk failed, if it did."""
    model = model or Model()
    under_way = None
    storage = None
    try:
        storage, _ = opened(directory, disk)
        for number in range(25):
            under_way = random_write(model, model.hard_state.term + number % 2, random)
            if under_way.snapshot is not None and random.random() < 0.6:
                storage.prepare(under_way.snapshot)
            if random.random() < 0.9:               # or a newer one came while it was prepared
                storage.write([under_way])
                model.write(under_way)
            under_way = None
    except (OSError, Internal, PowerCut):
        pass
    finally:
        if storage is not None:
            storage.close()
    return model, under_way


def goes_on(directory: Path, disk: FaultyDisk, model: Model, under_way: Write | None, random: Random) -> None:
    """The log opens with all that was acknowledged, and at most the write under way besides; and takes another."""
    storage, durable = opened(directory, disk)
    if not model.agrees(durable):
        assert under_way is not None
        model.write(under_way)
        assert model.agrees(durable)
    further = random_write(model, model.hard_state.term + 1, random)
    storage.write([further])
    storage.close()
    model.write(further)
    assert model.agrees(read(directory))


# Snapshots that are written beside the log.


def test_a_prepared_snapshot_counts_once_it_is_named_and_is_not_written_again(tmp_path: Path) -> None:
    long(tmp_path)
    calls: list[str] = []

    def note(call: str, _: Path) -> int:
        calls.append(call)
        return 0

    disk = FaultyDisk(tmp_path, Random(1), note)
    storage, _ = opened(tmp_path, disk)
    snapshot = Snapshot(18, 1, b"m", b"state")
    storage.prepare(snapshot)
    assert read_copy(tmp_path).snapshot is None, "the log does not name it"
    calls.clear()
    storage.write([Write(HardState(1, 1, 20), snapshot=snapshot, compact=16)])
    assert "create" not in calls
    storage.close()
    disk.cut_power()
    assert read(tmp_path).snapshot == snapshot


def test_a_prepared_snapshot_that_came_too_late_goes_with_the_next(tmp_path: Path) -> None:
    long(tmp_path)
    storage, _ = opened(tmp_path)
    storage.prepare(Snapshot(12, 1, b"m", b"late"))
    storage.write([Write(HardState(1, 1, 20), snapshot=Snapshot(18, 1, b"m", b"s"), compact=16)])
    assert not list(tmp_path.glob("prepared-*"))
    storage.prepare(Snapshot(19, 1, b"m", b"not named"))
    storage.close()
    assert read(tmp_path).snapshot == Snapshot(18, 1, b"m", b"s")
    assert not list(tmp_path.glob("prepared-*")), "whoever opens the log removes it"


def test_no_prepared_snapshot_is_left_under_an_old_key(tmp_path: Path) -> None:
    long(tmp_path)
    storage, _ = opened(tmp_path)
    snapshot, new = Snapshot(18, 1, b"m", b"state"), bytes(32)
    storage.prepare(snapshot)
    storage.take_keys(Keys((new, *KEYS)))
    storage.write([Write(HardState(1, 1, 20), snapshot=snapshot, compact=16)])
    storage.close()
    storage, durable = Storage.open(tmp_path, (new,), DISK, SMALL)
    storage.close()
    assert durable.snapshot == snapshot


def test_a_log_that_is_closed_does_not_wait_for_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "PART_BYTES", 64)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Files):
        def write(self, file: File, data: memoryview, at: int) -> int:
            if file.path.name.startswith("prepared-"):
                begun.set()
                go_on.wait(10)
            return super().write(file, data, at)

    long(tmp_path)
    storage, _ = opened(tmp_path, Slow())
    with ThreadPoolExecutor(2) as pool:
        preparing = pool.submit(storage.prepare, Snapshot(18, 1, b"m", bytes(64 * 1000)))
        assert begun.wait(10)
        closing = pool.submit(storage.close)
        while not storage._closing:
            assert not closing.done()
        go_on.set()
        with pytest.raises(InterruptedError, match="the raft log is closed"):
            preparing.result(10)
        closing.result(10)
    with pytest.raises(InterruptedError, match="the raft log is closed"):
        storage.prepare(Snapshot(18, 1, b"m", b"state"))
    assert not list(tmp_path.glob("prepared-*"))
    assert read(tmp_path).snapshot is None


def test_a_snapshot_for_which_there_is_no_space_leaves_none_of_it(tmp_path: Path) -> None:
    long(tmp_path)
    disk = FaultyDisk(tmp_path, Random(1))
    storage, _ = opened(tmp_path, disk)
    disk.fault = lambda call, path: errno.ENOSPC if call == "write" and path.match("prepared-*") else 0
    snapshot = Snapshot(18, 1, b"m", b"state")
    with pytest.raises(OSError, match="No space left"):
        storage.prepare(snapshot)
    assert not list(tmp_path.glob("prepared-*"))
    storage.write([Write(HardState(1, 1, 20), snapshot=snapshot, compact=16)])
    storage.close()
    assert read(tmp_path).snapshot == snapshot


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
        snapshot = Snapshot(index, model.entries[index].term, b"m", b"s%d" % index + bytes(index * 137 % 900))
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
                if (snapshot := batch[-1].snapshot) is not None and random.random() < 0.6:
                    storage.prepare(snapshot)
            storage.write(batch)
            if random.random() < 0.5:
                storage.close()
                storage, durable = opened(Path(name))
                assert model.agrees(durable)
        storage.close()
