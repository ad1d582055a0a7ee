"""The durable log: what was written comes back, and what was damaged does not."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import Internal
from swarmpy.manager.raft.messages import Entry, HardState, Snapshot
from swarmpy.manager.raft.storage import Corrupt, Identity, Storage, Write
from tests.raft.cores import normal

KEY = bytes(range(32))


def reopened(directory: Path) -> Storage:
    return Storage(directory, KEY)


def filled(directory: Path) -> None:
    """Three runs: 1-2, 3 and 4-6."""
    storage = Storage(directory, KEY)
    storage.set_identity(Identity("c", 1, "n", "h:1"))
    storage.load()
    for first, last in ((1, 2), (3, 3), (4, 6)):
        entries = tuple(normal(index, 1, b"entry %d" % index) for index in range(first, last + 1))
        storage.write([Write(HardState(1, 1, first - 1), entries)])
    storage.close()


def change(directory: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(directory / "raft.db")
    with db:
        db.execute(statement, values)
    db.close()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    filled(tmp_path)
    storage = reopened(tmp_path)
    durable = storage.load()
    assert durable.hard_state == HardState(1, 1, 3)
    assert [entry.index for entry in durable.entries] == [1, 2, 3, 4, 5, 6]
    assert storage.identity() == Identity("c", 1, "n", "h:1")
    storage.close()


def test_the_files_are_the_owners_alone_and_show_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "raft"
    filled(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"entry 1" not in file.read_bytes()


def test_a_log_in_use_is_said_to_be_in_use(tmp_path: Path) -> None:
    filled(tmp_path)
    storage = reopened(tmp_path)
    storage.load()
    with pytest.raises(Internal, match="in use by another process") as refused:
        Storage(tmp_path, KEY)
    assert not isinstance(refused.value, Corrupt)
    storage.close()


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE runs SET sealed = zeroblob(length(sealed)) WHERE first = 4", "entries at index 4 to 6"),
        ("UPDATE runs SET sealed = substr(sealed, 1, length(sealed) - 3) WHERE first = 3", "entry at index 3"),
        ("UPDATE runs SET sealed = (SELECT sealed FROM runs WHERE first = 1) WHERE first = 3", "entry at index 3"),
        ("UPDATE runs SET term = 2 WHERE first = 4", "entries at index 4 to 6"),
        ("DELETE FROM runs WHERE first = 3", "entries 3 to 3 are missing"),
        ("DELETE FROM runs WHERE first = 4", "ends at entry 3"),
        ("DELETE FROM runs WHERE first = 1", "entries 1 to 2 are missing"),
        ("UPDATE state SET sealed = zeroblob(80)", "the state record"),
        ("DELETE FROM state", "the state record is missing"),
    ],
)
def test_damage_is_named_and_never_served(tmp_path: Path, statement: str, names: str) -> None:
    filled(tmp_path)
    change(tmp_path, statement)
    storage = reopened(tmp_path)
    with pytest.raises(Corrupt, match=names) as found:
        storage.load()
    storage.close()
    assert str(tmp_path / "raft.db") in str(found.value)
    assert "join again" in str(found.value)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    storage = Storage(tmp_path, bytes(32))
    with pytest.raises(Corrupt, match="another key"):
        storage.load()
    storage.close()


def test_a_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "raft.db").write_bytes(b"\0" * 100 + b"noise" * 1000)
    with pytest.raises(Corrupt, match="SQLite says"):
        Storage(tmp_path, KEY)


def test_every_flipped_byte_of_the_file_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Wherever it lies, either the log opens exactly as it was, or not at all."""
    filled(tmp_path)
    file = tmp_path / "raft.db"
    whole = file.read_bytes()
    storage = reopened(tmp_path)
    expected = storage.load()
    storage.close()
    noticed = 0
    for at in range(0, len(whole), 89):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        try:
            storage = reopened(tmp_path)
        except Corrupt:
            noticed += 1
            continue
        try:
            assert storage.load() == expected
        except Corrupt:
            noticed += 1
        finally:
            storage.close()
    assert noticed > 3


def crashed(directory: Path) -> Path:
    """A log as a killed process leaves it: all of it in the journal, which is copied before it is closed."""
    source, target = directory / "source", directory / "target"
    storage = Storage(source, KEY)
    storage.load()
    storage._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for index in range(1, 9):
        storage.write([Write(HardState(1, 1, index - 1), (normal(index, 1, b"entry %d" % index),))])
    shutil.copytree(source, target)
    storage.close()
    return target


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    storage = Storage(crashed(tmp_path), KEY)
    assert len(storage.load().entries) == 8
    storage.close()


def test_a_write_cut_short_by_a_crash_is_dropped_alone(tmp_path: Path) -> None:
    directory = crashed(tmp_path)
    journal = directory / "raft.db-wal"
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size - 3000)
    storage = Storage(directory, KEY)
    assert [entry.index for entry in storage.load().entries] == [1, 2, 3, 4, 5, 6, 7]
    storage.close()


def test_a_flipped_bit_in_the_journal_is_no_end_of_history(tmp_path: Path) -> None:
    """SQLite by itself opens such a log, shorter."""
    directory = crashed(tmp_path)
    journal = directory / "raft.db-wal"
    whole = journal.read_bytes()
    last_transaction = len(whole) - 4 * 4120
    for at in (3, 40, *range(60, last_transaction, 3001)):
        journal.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match=r"raft\.db-wal is damaged: (frame|the header)"):
            Storage(directory, KEY)


def test_what_an_earlier_round_left_in_the_journal_is_no_damage(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "source", KEY)
    storage.load()
    for index in range(1, 20):
        if index == 15:
            storage._db.execute("PRAGMA wal_checkpoint(RESTART)")
        storage.write([Write(HardState(1, 1, index - 1), (normal(index, 1),))])
    shutil.copytree(tmp_path / "source", tmp_path / "target")
    storage.close()
    storage = Storage(tmp_path / "target", KEY)
    assert len(storage.load().entries) == 19
    storage.close()


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    storage = reopened(tmp_path)
    storage.load()
    db = storage._db
    db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error, match="disk full"):
        storage.write([Write(HardState(9, 9, 6), (normal(7, 9),))])
    db.execute("DROP TRIGGER full")
    storage.close()
    storage = reopened(tmp_path)
    assert storage.load().hard_state == HardState(1, 1, 3)
    storage.close()


class Model:
    """What the storage should hold, kept plainly."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.snapshot: Snapshot | None = None

    @property
    def last(self) -> int:
        return max(self.entries, default=self.snapshot.index if self.snapshot else 0)

    def write(self, write: Write) -> None:
        if write.snapshot is not None:
            self.snapshot = write.snapshot
            if write.restore:
                self.entries.clear()
        if write.entries:
            self.entries = {i: e for i, e in self.entries.items() if i < write.entries[0].index}
            self.entries |= {entry.index: entry for entry in write.entries}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sequence_of_writes_reads_back_as_a_plain_model_says(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        storage, model = Storage(Path(name), KEY), Model()
        storage.load()
        term = 1
        for _ in range(data.draw(st.integers(1, 12))):
            term += data.draw(st.integers(0, 1))
            base = model.snapshot.index if model.snapshot else 0
            write = Write(HardState(term, 0, base))
            match data.draw(st.sampled_from(("append", "append", "truncate", "compact", "restore"))):
                case "append":
                    write = _append(model.last + 1, term, data)
                case "truncate" if model.last > base:
                    write = _append(data.draw(st.integers(base + 1, model.last)), term, data)
                case "compact" if model.last > base:
                    index = data.draw(st.integers(base + 1, model.last))
                    snapshot = Snapshot(index, model.entries[index].term, b"m", b"s%d" % index)
                    write = Write(HardState(term, 0, index), snapshot=snapshot, compact=max(0, index - 2))
                case "restore":
                    snapshot = Snapshot(model.last + 3, term, b"m", b"r")
                    write = Write(HardState(term, 0, snapshot.index), snapshot=snapshot, restore=True)
            storage.write([write])
            model.write(write)
            if data.draw(st.booleans()):
                storage.close()
                storage = reopened(Path(name))
                durable = storage.load()
                assert durable.snapshot == model.snapshot
                assert durable.hard_state == write.hard_state
                assert durable.offset <= (model.snapshot.index if model.snapshot else 0)
                for entry in durable.entries:
                    assert model.entries[entry.index] == entry
                assert (durable.entries[-1].index if durable.entries else durable.offset) == model.last
        storage.close()


def _append(first: int, term: int, data: st.DataObject) -> Write:
    count = data.draw(st.integers(1, 3))
    entries = tuple(normal(index, term, b"%d" % term) for index in range(first, first + count))
    return Write(HardState(term, 0, 0), entries)
