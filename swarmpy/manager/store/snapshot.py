"""The store as one byte string: a serialized `StoreSnapshot`, written and read one object at a time.

A million tasks make some hundreds of megabytes. Building or parsing the message as a whole would hold every object
twice, so its outer fields are handled here; the wire format is of protobuf.dev/programming-guides/encoding.

Both take seconds of processor time for such a store, so they run beside the event loop, on a thread. The interpreter
lets a thread that only computes keep its lock for 5 ms at a time (sys.setswitchinterval), and the loop would wait as
long at each turn: after every few objects they therefore pause for a moment, which costs them little and the loop
nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from swarmpy.errors import Internal
from swarmpy.manager.store.tables import StoreObject
from swarmpy.manager.store.transaction import TABLES, table_of
from swarmpy.rpc.types_pb2 import Object, StoreSnapshot

__all__ = ["politely", "read_snapshot", "write_snapshot"]

T = TypeVar("T")

_LENGTH_DELIMITED = 2
_OBJECTS_TAG = StoreSnapshot.DESCRIPTOR.fields_by_name["objects"].number << 3 | _LENGTH_DELIMITED
_INDEX_TAG = StoreSnapshot.DESCRIPTOR.fields_by_name["index"].number << 3
_OBJECT_TAGS = {
    table: bytes([Object.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED])
    for table, field in TABLES.items()
}
_OBJECTS_A_TURN = 64             # some 0.3 ms of work
_PAUSE_S = 0.0001


def write_snapshot(index: int, rows: Iterable[StoreObject]) -> bytes:
    """A `StoreSnapshot` of these rows. Its cost is one pass over them."""
    out = io.BytesIO()               # grows without being copied, and gives its bytes away without either
    out.write(bytes([_INDEX_TAG]) + _varint(index))
    outer = bytes([_OBJECTS_TAG])
    for row in politely(rows):
        body = row.SerializeToString()
        length = _varint(len(body))
        size = _varint(1 + len(length) + len(body))
        out.write(b"".join((outer, size, _OBJECT_TAGS[table_of(row)], length, body)))
    return out.getvalue()


def read_snapshot(data: bytes) -> Iterator[StoreObject]:
    """The rows of a snapshot, each in memory of its own. Raises Internal when it is not one."""
    return politely(_rows(data))


def politely(rows: Iterable[T]) -> Iterator[T]:
    """The same rows, with a pause now and then in which other threads run."""
    for number, row in enumerate(rows):
        if number % _OBJECTS_A_TURN == 0:
            time.sleep(_PAUSE_S)
        yield row


def _rows(data: bytes) -> Iterator[StoreObject]:
    view, place = memoryview(data), 0
    while place < len(view):
        tag = view[place]
        value, place = _read_varint(view, place + 1)
        if tag == _INDEX_TAG:
            continue
        if tag != _OBJECTS_TAG or place + value > len(view):
            raise Internal(f"the store snapshot is damaged at byte {place}")
        wrapped = Object.FromString(data[place : place + value])
        kind = wrapped.WhichOneof("object")
        if kind is None:
            raise Internal(f"the store snapshot holds an object of a kind unknown to this version at byte {place}")
        row: StoreObject = getattr(wrapped, kind)
        yield row
        place += value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if place >= len(view):
            raise Internal("the store snapshot ends in the middle of a number")
        byte = view[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
