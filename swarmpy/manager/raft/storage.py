"""One member's durable state: who it is, the hard state, the entries, one snapshot. Every file is sealed.

Owns    the member's directory:

            lock        held by the process that uses the rest
            identity    whose log this is
            log-*       the write-ahead log (wal.py): hard state and entries
            snapshot-*  the state machine and the members as of an index
            prepared-*  such a file before the log names it

Laws    What `write` was given is durable when it returns; after a crash before that, all of it or nothing: the record
        in the log decides, and a snapshot counts from the record on that names it. What cannot be read as it was
        written is never served: opening raises Corrupt, which names file and record and tells how to rejoin.

A record is the hard state, the end of the log as it is then, the index of the snapshot before it, and *runs*: the
entries of one Ready each, which replace whatever was stored from their first index on. All of this blocks; `prepare` is
for what would block for seconds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from swarmpy.errors import Internal
from swarmpy.manager.raft import snapshot_file
from swarmpy.manager.raft.codec import Malformed, decode_entries, encode_entries
from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.files import Files, remove_unfinished, replace
from swarmpy.manager.raft.messages import Entry, HardState, Snapshot
from swarmpy.manager.raft.seal import BrokenSeal, Keys, Sealer
from swarmpy.manager.raft.wal import SEGMENT_BYTES, Damaged, WriteAheadLog

__all__ = ["Corrupt", "Identity", "Storage", "Write"]

_RECORD = struct.Struct("<QQQQQQ")    # term, vote, commit, last index, last term, index of the snapshot
_RUN = struct.Struct("<I")            # length of the run that follows; 0: all entries before were dropped
_SQLITE = "raft.db"                   # the log, before there were segments
_IDENTITY = "identity"
_SNAPSHOT_PREFIX = "snapshot-"
_PREPARED_PREFIX = "prepared-"


class Corrupt(Internal):
    """What is stored is damaged. This member must not go on with it: it may have promised what is lost."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the raft log {path} is damaged: {what}; this manager will not start from it. Demote it on another one "
            "(docker node demote) and promote it again: it gets everything from the others"
        )


class Outdated(Internal):
    """What is stored is in the form that an older swarmpy gave it. It stays as it is."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"the raft log {directory / _SQLITE} was written by an older swarmpy, and this one cannot read it. Where "
            "there are other managers, demote this one on one of them (docker node demote), and promote it again. "
            "Where there are none, go back to the older swarmpy, or give the swarm up (docker swarm leave --force)"
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


class Write(NamedTuple):
    """What one Ready wants durable. `encoded` is `entries` as the codec has them."""

    hard_state: HardState
    entries: Sequence[Entry] = ()
    encoded: bytes = b""
    snapshot: Snapshot | None = None
    restore: bool = False      # the snapshot replaces the log
    compact: int = 0           # entries up to here may go


class Storage:
    """Made by `open`. Used by one process at a time, and in it, but for `prepare`, by one thread at a time."""

    @classmethod
    def open(
        cls, directory: Path, keys: Sequence[bytes], files: Files, segment_bytes: int = SEGMENT_BYTES
    ) -> tuple[Storage, Durable]:
        """Create or open what is in `directory`, and everything found there, checked from end to end.

        The directory becomes 0700, its files 0600. Raises Corrupt; Internal when another process uses it, when the disk
        cannot be read or written, or when the log there is of a version that this one cannot read.
        """
        storage = cls(directory, keys, files, segment_bytes)
        try:
            return storage, storage._load()
        except OSError as error:
            storage.close()
            raise Internal(f"the raft log in {directory} cannot be opened: {error}") from error
        except BaseException:
            storage.close()
            raise

    def __init__(self, directory: Path, keys: Sequence[bytes], files: Files, segment_bytes: int) -> None:
        self._directory = directory
        self._files = files
        self._sealer = Sealer(keys)
        self._preparing = threading.Lock()
        self._closing = False
        self._wal = WriteAheadLog(directory, files, self._sealer, _last_index, segment_bytes)
        self._last = (0, 0)    # index and term of the last entry stored
        self._snapshot_index = 0
        self._identity: Identity | None = None
        self._lock = _lock(directory)

    def close(self) -> None:
        self._closing = True
        with self._preparing:
            self._wal.close()
            os.close(self._lock)

    @property
    def identity(self) -> Identity | None:
        """None in a new directory."""
        return self._identity

    # Writing.

    def set_identity(self, identity: Identity) -> None:
        self._replace(self._directory / _IDENTITY, [self._sealer.seal(identity.encode(), _IDENTITY.encode())])
        self._identity = identity

    def take_keys(self, keys: Keys) -> None:
        """All that is there is sealed under the first of them when this returns; after a crash before that, under any.

        Raises OSError; Damaged when something is not as it was written.
        """
        with self._preparing:
            for path in self._directory.glob(f"{_PREPARED_PREFIX}*"):       # sealed under one of before
                self._files.unlink(path)
            self._sealer.take(keys.all)
        if self._identity is not None:
            self.set_identity(self._identity)
        snapshot = self._load_snapshot()
        if snapshot is not None:
            self._put_snapshot(snapshot)
        self._wal.seal_anew()

    def prepare(self, snapshot: Snapshot) -> None:
        """Write the file of a snapshot that is to be written: `write` will have to name it, and no more.

        On another thread than the rest. Raises OSError; InterruptedError where the storage is closed. Then, and when it
        is never called, `write` does all of it.
        """
        path = self._prepared_path(snapshot)
        with self._preparing:
            self._check_open()
            try:
                self._replace(path, self._while_open(snapshot_file.pieces(self._sealer.twin(), snapshot)))
            except BaseException:
                with suppress(OSError):
                    remove_unfinished(self._files, path)        # others may need the space
                raise

    def _while_open(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._check_open()
            yield piece

    def _check_open(self) -> None:
        if self._closing:
            raise InterruptedError(errno.EINTR, "the raft log is closed", str(self._directory))

    def write(self, writes: Sequence[Write]) -> None:
        """Make all of them durable, in order, in one record. After an OSError nothing more may be written."""
        snapshots = [write.snapshot for write in writes if write.snapshot is not None]
        if snapshots:
            self._put_snapshot(snapshots[-1])
        runs = b"".join([self._runs(write) for write in writes])
        state = writes[-1].hard_state
        self._wal.append(_RECORD.pack(state.term, state.vote, state.commit, *self._last, self._snapshot_index) + runs)
        if snapshots:
            self._wal.forget(max(write.compact or write.restore * self._last[0] for write in writes))
            self._remove_other_snapshots()

    def _runs(self, write: Write) -> bytes:
        runs = b""
        if write.snapshot is not None and write.restore:
            runs = _RUN.pack(0)
            self._last = (write.snapshot.index, write.snapshot.term)
        if write.entries:
            encoded = write.encoded or encode_entries(write.entries)
            runs += _RUN.pack(len(encoded)) + encoded
            self._last = write.entries[-1][:2]
        return runs

    def _put_snapshot(self, snapshot: Snapshot) -> None:
        path, prepared = self._snapshot_path(snapshot.index), self._prepared_path(snapshot)
        if prepared.exists():
            self._files.rename(prepared, path)
            self._files.sync_directory(self._directory)
        else:
            self._replace(path, snapshot_file.pieces(self._sealer, snapshot))
        self._snapshot_index = snapshot.index

    def _snapshot_path(self, index: int) -> Path:
        return self._directory / f"{_SNAPSHOT_PREFIX}{index:016x}"

    def _prepared_path(self, snapshot: Snapshot) -> Path:
        return self._directory / f"{_PREPARED_PREFIX}{snapshot.index:016x}-{snapshot.term:x}"

    def _prepared(self) -> list[Path]:
        """Those that are whole."""
        return [path for path in self._directory.glob(f"{_PREPARED_PREFIX}*") if not path.suffix]

    def _remove_other_snapshots(self) -> None:
        named = self._snapshot_path(self._snapshot_index)
        for path in self._directory.glob(f"{_SNAPSHOT_PREFIX}*"):
            if path != named:
                self._files.unlink(path)
        for path in self._prepared():
            if path.name.removeprefix(_PREPARED_PREFIX) < named.name.removeprefix(_SNAPSHOT_PREFIX):
                self._files.unlink(path)        # a newer one was restored meanwhile

    def _replace(self, path: Path, pieces: Iterable[bytes]) -> None:
        replace(self._files, path, pieces).close()

    # Reading.

    def _load(self) -> Durable:
        if (self._directory / _SQLITE).exists():
            raise Outdated(self._directory)
        for leftover in (*self._directory.glob("*.new"), *self._prepared()):    # of a writer that died
            self._files.unlink(leftover)
        self._identity = self._load_identity()
        try:
            records = self._wal.open()
        except Damaged as damage:
            raise Corrupt(damage.path, str(damage)) from damage
        entries: list[Entry] = []
        for record in records:
            self._replay(record, entries)
        if not records:
            return Durable()
        term, vote, commit, *last, self._snapshot_index = _RECORD.unpack_from(records[-1])
        self._last = (last[0], last[1])
        durable = self._join(HardState(term, vote, commit), self._load_snapshot(), entries)
        end = durable.entries[-1][:2] if durable.entries else (durable.offset, durable.offset_term)
        if end != self._last:
            raise self._corrupt(f"it ends at entry {end[0]} of term {end[1]}, not at {last[0]} of {last[1]}")
        self._remove_other_snapshots()
        return durable

    def _replay(self, record: bytes, entries: list[Entry]) -> None:
        """Do to `entries` what the record did to the log."""
        at = _RECORD.size
        while at < len(record):
            (length,) = _RUN.unpack_from(record, at)
            at += _RUN.size
            if length == 0:
                entries.clear()
                continue
            try:
                run = decode_entries(record[at : at + length])
            except Malformed as error:
                raise self._corrupt(str(error)) from error
            at += length
            if entries:
                if run[0].index > entries[-1].index + 1:
                    raise self._corrupt(f"entries {entries[-1].index + 1} to {run[0].index - 1} are missing")
                del entries[max(0, run[0].index - entries[0].index) :]
            entries += run

    def _load_identity(self) -> Identity | None:
        path = self._directory / _IDENTITY
        if not path.exists():
            return None
        with _unbroken(path):
            return Identity.decode(self._sealer.open(self._files.read(path), _IDENTITY.encode()))

    def _load_snapshot(self) -> Snapshot | None:
        index = self._snapshot_index
        if index == 0:
            return None
        path = self._snapshot_path(index)
        if not path.exists():
            raise Corrupt(path, "it is missing, and the log counts on it")
        with _unbroken(path):
            return snapshot_file.unpack(self._sealer, index, self._files.read(path))

    def _join(self, hard_state: HardState, snapshot: Snapshot | None, entries: list[Entry]) -> Durable:
        """Where the log begins: just after the snapshot, or before it, at an entry kept for slow followers."""
        base = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        if not entries:
            return Durable(hard_state, snapshot, *base)
        first = entries[0]
        if first.index > base[0] + 1:
            raise self._corrupt(f"entries {base[0] + 1} to {first.index - 1} are missing")
        if first.index == base[0] + 1:
            return Durable(hard_state, snapshot, *base, tuple(entries))
        if first.index == 1:
            return Durable(hard_state, snapshot, entries=tuple(entries))
        return Durable(hard_state, snapshot, first.index, first.term, tuple(entries[1:]))

    def _corrupt(self, what: str) -> Corrupt:
        return Corrupt(self._directory / "log-*", what)


def _lock(directory: Path) -> int:
    """The descriptor that keeps other processes out of `directory`, which is made if need be. Raises Internal."""
    try:
        directory.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        directory.chmod(stat.S_IRWXU)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:
        raise Internal(f"the raft log in {directory} cannot be opened: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Internal(f"the raft log in {directory} is in use by another process; stop that one first") from error
    return lock


def _last_index(record: bytes) -> int:
    """Up to which index entries have to be forgotten before the record may be."""
    return int(_RECORD.unpack_from(record)[3])


@contextmanager
def _unbroken(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenSeal as error:
        raise Corrupt(path, f"it cannot be opened: {error}") from error
