"""One member's durable log: a SQLite file in which every record is sealed.

Owns    `raft.db` in the member's directory: who the member is, the hard state, the entries, one snapshot.
Laws    One transaction per write, fsynced (WAL journal, synchronous=FULL) before `write` returns. What cannot be
        opened is never served: opening raises Corrupt, which names file and record and tells how to rejoin.
Out     Durable, as the core wants it. Everything here blocks: it runs in the disk thread.

Entries are stored as *runs*, one row for the entries of one Ready, so that a batch costs one seal and one insert. The
state record is written in every transaction and repeats the last index, so a missing run is noticed at the end, too.

Source  SQLite, "Write-Ahead Logging" and "PRAGMA synchronous"; SQLite file format, 4 (the WAL file).
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmpy.errors import Internal
from swarmpy.manager.raft.codec import Malformed, decode_entries, encode_entries
from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.messages import Entry, HardState, Snapshot
from swarmpy.manager.raft.seal import BrokenSeal, Sealer
from swarmpy.manager.raft.wal import damaged_frame

__all__ = ["Corrupt", "Identity", "Storage", "Write"]

FILE_NAME = "raft.db"
_SCHEMA = """
CREATE TABLE identity (only INTEGER PRIMARY KEY CHECK (only = 1), sealed BLOB NOT NULL);
CREATE TABLE state    (only INTEGER PRIMARY KEY CHECK (only = 1), sealed BLOB NOT NULL);
CREATE TABLE snapshot (only INTEGER PRIMARY KEY CHECK (only = 1), idx INTEGER NOT NULL, term INTEGER NOT NULL,
                       sealed BLOB NOT NULL);
CREATE TABLE runs     (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, term INTEGER NOT NULL, sealed BLOB NOT NULL);
PRAGMA user_version = 1;
"""
_STATE = struct.Struct("<QQQQQ")      # term, vote, commit, last index, last term
_SNAPSHOT = struct.Struct("<I")       # length of the membership


class Corrupt(Internal):
    """The stored log is damaged. This member must not go on with it: it may have promised what is lost."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the raft log {path} is damaged: {what}; this manager will not start from it. Remove this manager on "
            f"another one (docker node demote, docker node rm), delete {path.parent} here and join again"
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose log this is. `cluster_id` is empty in a joiner that no member has spoken to yet."""

    cluster_id: str
    raft_id: int
    node_id: str
    addr: str

    def encode(self) -> bytes:
        return json.dumps([self.cluster_id, self.raft_id, self.node_id, self.addr]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        return cls(*json.loads(data))


@dataclass(frozen=True, slots=True)
class Write:
    """What one Ready wants durable. `encoded` is `entries` as the codec has them."""

    hard_state: HardState
    entries: Sequence[Entry] = ()
    encoded: bytes = b""
    snapshot: Snapshot | None = None
    restore: bool = False      # the snapshot replaces the log
    compact: int = 0           # entries up to here may go


class Storage:
    """Opened by one process at a time; used by one thread at a time."""

    def __init__(self, directory: Path, key: bytes) -> None:
        """Create or open the file, mode 0600 in a directory of 0700. Raises Corrupt; Internal when it is in use."""
        self.path = directory / FILE_NAME
        self._sealer = Sealer(key)
        self._last = (0, 0)    # index and term of the last entry stored
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(stat.S_IRWXU)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
        self.path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        self._check_journal()
        self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise Internal(f"the raft log {self.path} is in use by another process; stop that one first") from error
            raise Corrupt(self.path, f"SQLite says: {error}") from error

    def _check_journal(self) -> None:
        """SQLite would silently drop what follows a damaged frame, and with it what this member has promised."""
        journal = self.path.with_name(FILE_NAME + "-wal")
        frame = damaged_frame(journal.read_bytes()) if journal.exists() else None
        if frame is not None:
            where = f"frame {frame}" if frame else "the header"
            raise Corrupt(journal, f"{where} was changed after it had been written, and entries would be lost with it")

    def _prepare(self) -> None:
        execute = self._db.execute
        execute("PRAGMA locking_mode=EXCLUSIVE")      # no second process, and no shared-memory file
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute("PRAGMA wal_autocheckpoint=4000")     # pages: 16 MiB
        if execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
            _sync_directory(self.path.parent)

    def close(self) -> None:
        self._db.close()

    # Identity.

    def identity(self) -> Identity | None:
        """None in a new file."""
        row = self._row("SELECT sealed FROM identity")
        return Identity.decode(self._open(row[0], b"identity", "the identity record")) if row else None

    def set_identity(self, identity: Identity) -> None:
        sealed = self._sealer.seal(identity.encode(), b"identity")
        self._db.execute("INSERT OR REPLACE INTO identity VALUES (1, ?)", (sealed,))

    # Writing.

    def write(self, writes: Sequence[Write]) -> None:
        """Make all of them durable, in order, in one transaction."""
        execute = self._db.execute
        execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._write(write)
            self._put_state(writes[-1].hard_state)
            execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                execute("ROLLBACK")
            raise

    def _write(self, write: Write) -> None:
        execute = self._db.execute
        if write.snapshot is not None:
            self._put_snapshot(write.snapshot)
            if write.restore:
                execute("DELETE FROM runs")
                self._last = (write.snapshot.index, write.snapshot.term)
        if write.compact:
            execute("DELETE FROM runs WHERE last <= ?", (write.compact,))
        if write.entries:
            if write.entries[0].index <= self._last[0]:
                self._truncate(write.entries[0].index)
            self._put_run(write.entries, write.encoded or encode_entries(write.entries))

    def _truncate(self, index: int) -> None:
        """Drop the entries from `index` on; a run that begins before keeps its beginning."""
        row = self._row("SELECT first, last, term, sealed FROM runs WHERE first < ? AND last >= ?", (index, index))
        self._db.execute("DELETE FROM runs WHERE last >= ?", (index,))
        if row:
            kept = [entry for entry in self._open_run(*row) if entry.index < index]
            self._put_run(kept, encode_entries(kept))

    def _put_run(self, entries: Sequence[Entry], encoded: bytes) -> None:
        first, last, term = entries[0].index, entries[-1].index, entries[-1].term
        sealed = self._sealer.seal(encoded, _run_context(first, last, term))
        self._db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (first, last, term, sealed))
        self._last = (last, term)

    def _put_snapshot(self, snapshot: Snapshot) -> None:
        plain = b"".join((_SNAPSHOT.pack(len(snapshot.membership)), snapshot.membership, snapshot.data))
        sealed = self._sealer.seal(plain, _snapshot_context(snapshot.index, snapshot.term))
        row = (snapshot.index, snapshot.term, sealed)
        self._db.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?)", row)

    def _put_state(self, state: HardState) -> None:
        plain = _STATE.pack(state.term, state.vote, state.commit, *self._last)
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (self._sealer.seal(plain, b"state"),))

    # Reading.

    def load(self) -> Durable:
        """Everything stored, checked from end to end. Raises Corrupt."""
        snapshot = self._load_snapshot()
        entries = self._load_runs()
        row = self._row("SELECT sealed FROM state")
        if row is None:
            if entries or snapshot:
                raise Corrupt(self.path, "the state record is missing")
            return Durable()
        term, vote, commit, last_index, last_term = _STATE.unpack(self._open(row[0], b"state", "the state record"))
        durable = self._join(snapshot, entries)
        end = durable.entries[-1][:2] if durable.entries else (durable.offset, durable.offset_term)
        if end != (last_index, last_term):
            raise Corrupt(self.path, f"it ends at entry {end[0]} of term {end[1]}, not at {last_index} of {last_term}")
        self._last = (last_index, last_term)
        return replace(durable, hard_state=HardState(term, vote, commit))

    def _load_snapshot(self) -> Snapshot | None:
        row = self._row("SELECT idx, term, sealed FROM snapshot")
        if row is None:
            return None
        index, term, sealed = row
        plain = self._open(sealed, _snapshot_context(index, term), f"the snapshot at index {index}")
        (length,) = _SNAPSHOT.unpack_from(plain)
        start = _SNAPSHOT.size
        return Snapshot(index, term, plain[start : start + length], plain[start + length :])

    def _load_runs(self) -> list[Entry]:
        entries: list[Entry] = []
        try:
            rows = self._db.execute("SELECT first, last, term, sealed FROM runs ORDER BY first").fetchall()
        except sqlite3.DatabaseError as error:
            raise Corrupt(self.path, f"SQLite says: {error}") from error
        for row in rows:
            run = self._open_run(*row)
            if entries and run[0].index != entries[-1].index + 1:
                raise Corrupt(self.path, f"entries {entries[-1].index + 1} to {run[0].index - 1} are missing")
            entries += run
        return entries

    def _join(self, snapshot: Snapshot | None, entries: list[Entry]) -> Durable:
        """Where the log begins: just after the snapshot, or before it, at an entry kept for slow followers."""
        base = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        if not entries:
            return Durable(snapshot=snapshot, offset=base[0], offset_term=base[1])
        first = entries[0]
        if first.index > base[0] + 1:
            raise Corrupt(self.path, f"entries {base[0] + 1} to {first.index - 1} are missing")
        if first.index == base[0] + 1:
            return Durable(snapshot=snapshot, offset=base[0], offset_term=base[1], entries=tuple(entries))
        if first.index == 1:
            return Durable(snapshot=snapshot, entries=tuple(entries))
        return Durable(snapshot=snapshot, offset=first.index, offset_term=first.term, entries=tuple(entries[1:]))

    def _open_run(self, first: int, last: int, term: int, sealed: bytes) -> tuple[Entry, ...]:
        what = f"the entry at index {first}" if first == last else f"the entries at index {first} to {last}"
        plain = self._open(sealed, _run_context(first, last, term), what)
        try:
            entries = decode_entries(plain)
        except Malformed as error:
            raise Corrupt(self.path, f"{what}: {error}") from error
        return entries

    def _open(self, sealed: bytes, context: bytes, what: str) -> bytes:
        try:
            return self._sealer.open(sealed, context)
        except BrokenSeal as error:
            raise Corrupt(self.path, f"{what} cannot be opened: {error}") from error

    def _row(self, query: str, values: tuple[int, ...] = ()) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        except sqlite3.DatabaseError as error:
            raise Corrupt(self.path, f"SQLite says: {error}") from error
        return row


def _run_context(first: int, last: int, term: int) -> bytes:
    return b"run %d %d %d" % (first, last, term)


def _snapshot_context(index: int, term: int) -> bytes:
    return b"snapshot %d %d" % (index, term)


def _sync_directory(directory: Path) -> None:
    """The new file's name is durable only with its directory (fsync(2), NOTES)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
