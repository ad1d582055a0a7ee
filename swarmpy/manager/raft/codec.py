"""Messages and entries as bytes: a fixed header per message type, and entries by columns.

A batch of entries is `count, terms, kinds, lengths` and then the data end to end, so that one struct call reads or
writes all headers. The same bytes go to the disk and to every follower: a Codec remembers the last few
batches by (first index, last index, last term), which names their content (Raft paper, Log Matching).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Decided,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadRequest,
    ReadResponse,
    RemovedNotice,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entries,
)

__all__ = ["Codec", "Malformed", "decode_entries", "decode_message", "encode_entries"]

_COUNT = struct.Struct("<QI")        # index of the first entry, number of entries
_HEAD = struct.Struct("<BQQQ")       # message type, sender, to, term
_KINDS = {int(kind): kind for kind in EntryKind}

# The fields after the head, for messages that are nothing but numbers.
_PLAIN: dict[int, tuple[type[Any], struct.Struct]] = {
    1: (VoteRequest, struct.Struct("<QQ??")),
    2: (VoteResponse, struct.Struct("<??")),
    3: (AppendResponse, struct.Struct("<Q?QQ")),
    4: (Decided, struct.Struct("<QQ")),
    5: (Heartbeat, struct.Struct("<QQ")),
    6: (HeartbeatResponse, struct.Struct("<Q")),
    7: (SnapshotResponse, struct.Struct("<QQ")),
    8: (ReadRequest, struct.Struct("<Q")),
    9: (ReadResponse, struct.Struct("<QQ")),
    10: (TimeoutNow, struct.Struct("<")),
    11: (RemovedNotice, struct.Struct("<")),
}
_CODES = {kind: (code, fields) for code, (kind, fields) in _PLAIN.items()}
_FIELDS = {kind: tuple(kind.__slots__) for kind in _CODES}
_APPEND, _CHUNK = 12, 13
_APPEND_HEAD = struct.Struct("<QQQ")        # prev_index, prev_term, commit
_CHUNK_HEAD = struct.Struct("<QQIQQ")       # index, index_term, length of membership, size, offset


class Malformed(Exception):
    """Bytes that are no message of ours."""


class Codec:
    """One member's; `remember` batches of entries are kept so that disk and followers share one encoding."""

    def __init__(self, remember: int = 16) -> None:
        self._remember = remember
        self._batches: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()

    def encode_entries(self, entries: Sequence[Entry]) -> bytes:
        """One or more consecutive entries."""
        key = (entries[0].index, entries[-1].index, entries[-1].term)
        found = self._batches.get(key)
        if found is None:
            found = encode_entries(entries)
            self._keep(key, found)
        return found

    def decode_message(self, data: bytes) -> Message:
        """Like the function; the entries of an append are remembered as they came, for the disk. Raises Malformed."""
        message = decode_message(data)
        if isinstance(message, Append) and message.entries:
            entries = message.entries
            self._keep((entries[0].index, entries[-1].index, entries[-1].term), data[_HEAD.size + _APPEND_HEAD.size :])
        return message

    def _keep(self, key: tuple[int, int, int], encoded: bytes) -> None:
        self._batches[key] = encoded
        if len(self._batches) > self._remember:
            self._batches.popitem(last=False)

    def encode_message(self, message: Message) -> bytes:
        kind = type(message)
        if isinstance(message, Append):
            head = _HEAD.pack(_APPEND, message.sender, message.to, message.term)
            fields = _APPEND_HEAD.pack(message.prev_index, message.prev_term, message.commit)
            return head + fields + (self.encode_entries(message.entries) if message.entries else b"")
        if isinstance(message, SnapshotChunk):
            head = _HEAD.pack(_CHUNK, message.sender, message.to, message.term)
            membership = message.membership
            fields = _CHUNK_HEAD.pack(
                message.index, message.index_term, len(membership), message.size, message.offset
            )
            return b"".join((head, fields, membership, message.data))
        code, plain = _CODES[kind]
        head = _HEAD.pack(code, message.sender, message.to, message.term)
        return head + plain.pack(*[getattr(message, name) for name in _FIELDS[kind]])


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """One or more consecutive entries."""
    count = len(entries)
    indexes, terms, kinds, datas = zip(*entries, strict=True)
    columns = struct.pack(f"<{count}Q{count}B{count}I", *terms, *kinds, *map(len, datas))
    return b"".join((_COUNT.pack(indexes[0], count), columns, *datas))


def decode_entries(data: bytes, start: int = 0) -> tuple[Entry, ...]:
    """What `encode_entries` made, from `start` to the end. Raises Malformed."""
    try:
        first, count = _COUNT.unpack_from(data, start)
        columns = struct.Struct(f"<{count}Q{count}B{count}I")
        position = start + _COUNT.size
        values = columns.unpack_from(data, position)
        ends = list(accumulate(values[2 * count :], initial=position + columns.size))
        kinds = [_KINDS[kind] for kind in values[count : 2 * count]]
        datas = [data[begin:end] for begin, end in pairwise(ends)]
        entries = make_entries(range(first, first + count), values, kinds, datas)
    except (struct.error, KeyError) as error:
        raise Malformed(f"entries cannot be read: {error}") from error
    if ends[-1] != len(data) or not entries:
        raise Malformed(f"entries from {first} are {len(data) - ends[-1]} bytes longer than they say")
    return tuple(entries)


def decode_message(data: bytes) -> Message:
    """What `Codec.encode_message` made. Raises Malformed."""
    try:
        code, sender, to, term = _HEAD.unpack_from(data)
        start = _HEAD.size
        if code == _APPEND:
            prev_index, prev_term, commit = _APPEND_HEAD.unpack_from(data, start)
            start += _APPEND_HEAD.size
            entries = decode_entries(data, start) if start < len(data) else ()
            return Append(sender, to, term, prev_index, prev_term, commit, entries)
        if code == _CHUNK:
            index, index_term, length, size, offset = _CHUNK_HEAD.unpack_from(data, start)
            start += _CHUNK_HEAD.size
            membership, chunk = data[start : start + length], data[start + length :]
            return SnapshotChunk(sender, to, term, index, index_term, membership, size, offset, chunk)
        kind, plain = _PLAIN[code]
        message: Message = kind(sender, to, term, *plain.unpack_from(data, start))
        return message
    except (struct.error, KeyError) as error:
        raise Malformed(f"a message of {len(data)} bytes cannot be read: {error}") from error
