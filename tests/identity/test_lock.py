"""What a node keeps on its disk, and the key around it: who may open it, and that nothing in it can be exchanged."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import Internal, InvalidArgument, NotFound, Unavailable
from swarmpy.identity import Issued, Lock, Locked, NodeIdentity, UnlockKey, stored_node_id
from swarmpy.identity.certificates import pem
from swarmpy.identity.data_keys import KEYS_FILE, unwrap, wrap
from swarmpy.identity.node_file import is_sealed_with, open_key, seal_key, split
from swarmpy.rpc.types_pb2 import NodeRole
from tests.identity.swarm import Swarm

FIRST, SECOND = UnlockKey(bytes(range(32))), UnlockKey(bytes(range(1, 33)))
KEYS = (bytes(range(2, 34)), bytes(range(3, 35)))
LEAF, OTHER_LEAF = b"leaf of one", b"leaf of another"


def manager(directory: Path, unlock_key: UnlockKey | None, as_of: int = 5) -> NodeIdentity:
    issued = Swarm().issued("m1", NodeRole.MANAGER)
    return NodeIdentity.create(
        directory, Issued(issued.key, issued.certificate, issued.root_ca, Lock(unlock_key, as_of))
    )


def files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


# ------------------------------------------------------------------------------------------------ the unlock key


@given(st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_an_unlock_key_reads_as_it_was_printed(secret: bytes) -> None:
    key = UnlockKey(secret)
    assert str(key).startswith("SWMKEY-1-")
    assert len(str(key)) == 52
    assert UnlockKey.parse(f" {key}\n") == key


@pytest.mark.parametrize(
    "text",
    ["", "SWMKEY-1-", "SWMKEY-2-" + str(FIRST)[9:], str(FIRST)[9:], str(FIRST)[:-1], str(FIRST) + "A", "schlüssel"],
)
def test_a_mistyped_unlock_key_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(InvalidArgument, match="UnlockKey: it must read SWMKEY-1-") as refusal:
        UnlockKey.parse(text)
    assert text[9:] == "" or text[9:] not in str(refusal.value)


def test_no_representation_shows_a_key() -> None:
    assert str(FIRST)[9:] not in repr((FIRST, Lock(FIRST)))
    assert repr(FIRST.secret) not in repr((FIRST, Lock(FIRST)))


# ------------------------------------------------------------------------------------------------ the files


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4), st.integers(0, 2**64))
@settings(deadline=None)
def test_what_was_wrapped_is_unwrapped_with_its_key_alone(keys: list[bytes], as_of: int) -> None:
    data = wrap(tuple(keys), Lock(FIRST, as_of))
    assert unwrap(data, FIRST) == (tuple(keys), Lock(FIRST, as_of))
    with pytest.raises(Locked):
        unwrap(data, None)
    with pytest.raises(InvalidArgument, match="not the key that locks this node"):
        unwrap(data, SECOND)
    plain = wrap(tuple(keys), Lock(None, as_of))
    assert unwrap(plain, None) == unwrap(plain, SECOND) == (tuple(keys), Lock(None, as_of))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_in_wrapped_keys_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(wrap(KEYS, Lock(FIRST, 7)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unwrap(bytes(whole), FIRST)
    except (ValueError, KeyError, TypeError, InvalidArgument):
        return
    assert found == (KEYS, Lock(FIRST, 7)), "only white space and spare bits of base 64 may differ"


def test_parts_of_two_wrapped_files_do_not_mix() -> None:
    first, second = (json.loads(wrap(KEYS, Lock(FIRST, as_of))) for as_of in (7, 8))
    for name in ("as_of", "salt", "check", "sealed"):
        with pytest.raises((ValueError, InvalidArgument)):
            unwrap(json.dumps(first | {name: second[name]}).encode(), FIRST)


@given(st.binary(min_size=1, max_size=400), st.data())
@settings(deadline=None)
def test_a_sealed_private_key_opens_at_its_certificate_alone(private: bytes, data: st.DataObject) -> None:
    text = seal_key(private, LEAF, KEYS[1])
    assert open_key(text, LEAF, KEYS) == private
    for leaf, keys in ((OTHER_LEAF, KEYS), (LEAF, KEYS[:1])):
        with pytest.raises(ValueError, match="private key"):
            open_key(text, leaf, keys)
    body = bytearray(text)
    begin, end = text.index(b"\n") + 1, text.index(b"-----END") - 4    # but for padding, whose spare bits say nothing
    at = data.draw(st.integers(begin, end - 1).filter(lambda one: text[one : one + 1] != b"\n"))
    body[at] = ord("A") if body[at] != ord("A") else ord("B")
    with pytest.raises(ValueError, match="private key"):
        open_key(bytes(body), LEAF, KEYS)


# ------------------------------------------------------------------------------------------------ a node's disk


def test_a_locked_disk_has_no_key_in_it(tmp_path: Path) -> None:
    made = manager(tmp_path / "m1", FIRST)
    kept = files(tmp_path / "m1")
    assert b"BEGIN PRIVATE KEY" not in kept
    with pytest.raises(Locked):
        NodeIdentity.load(tmp_path / "m1")
    assert stored_node_id(tmp_path / "m1") == "m1"
    with pytest.raises(InvalidArgument, match="not the key"):
        NodeIdentity.load(tmp_path / "m1", SECOND)
    assert files(tmp_path / "m1") == kept, "a wrong key changes nothing"
    again = NodeIdentity.load(tmp_path / "m1", FIRST)
    assert (again.credential(), again.data_keys, again.locks) == (made.credential(), made.data_keys, True)


def test_a_changed_key_locks_out_the_one_before(tmp_path: Path) -> None:
    identity = manager(tmp_path, FIRST)
    keys = identity.data_keys
    asyncio.run(identity.lock(Lock(SECOND, 6)))
    assert identity.data_keys == keys, "what is sealed stays as it is"
    with pytest.raises(InvalidArgument, match="not the key"):
        NodeIdentity.load(tmp_path, FIRST)
    assert NodeIdentity.load(tmp_path, SECOND).credential() == identity.credential()


def test_a_disk_that_does_not_take_a_new_key_opens_with_the_old_one(tmp_path: Path) -> None:
    identity = manager(tmp_path, FIRST)
    (tmp_path / f"{KEYS_FILE}.new").mkdir()             # where the new file would be written
    with pytest.raises(Internal, match="the unlock key was not changed on this node"):
        asyncio.run(identity.lock(Lock(SECOND, 6)))
    assert NodeIdentity.load(tmp_path, FIRST).locks
    (tmp_path / f"{KEYS_FILE}.new").rmdir()
    asyncio.run(identity.lock(Lock(SECOND, 6)))
    assert NodeIdentity.load(tmp_path, SECOND).locks


def test_the_past_heard_again_changes_nothing(tmp_path: Path) -> None:
    identity = manager(tmp_path, SECOND, as_of=6)
    for word in (Lock(None, 4), Lock(FIRST, 5)):
        asyncio.run(identity.lock(word))
    assert NodeIdentity.load(tmp_path, SECOND).locks


def test_keys_that_lay_open_seal_nothing_new_once_locked(tmp_path: Path) -> None:
    identity = manager(tmp_path, None)
    open_keys = NodeIdentity.load(tmp_path).data_keys
    asyncio.run(identity.lock(Lock(FIRST, 6)))
    assert identity.data_keys[1:] == open_keys, "until what else they seal is sealed anew"
    with pytest.raises(ValueError, match="data key that is not there"):
        open_key(*private_key_of(tmp_path), open_keys)
    assert open_key(*private_key_of(tmp_path), identity.data_keys) == identity.credential().key


def private_key_of(directory: Path) -> tuple[bytes, bytes]:
    """As it lies there, and its certificate."""
    text, leaf, _ = split((directory / "node.pem").read_bytes())
    return text, pem(leaf)


def test_keys_of_before_are_forgotten_once_all_is_sealed_anew(tmp_path: Path) -> None:
    identity = manager(tmp_path, None)
    told: list[tuple[bytes, ...]] = []

    async def seal_anew(keys: tuple[bytes, ...]) -> None:
        told.append(keys)
        assert NodeIdentity.load(tmp_path, FIRST).data_keys == keys, "the disk opens whatever happens now"

    (open_key_,) = identity.data_keys
    asyncio.run(identity.lock(Lock(FIRST, 6), seal_anew))
    (locked_key,) = identity.data_keys
    assert told == [(locked_key, open_key_)]
    assert NodeIdentity.load(tmp_path, FIRST).data_keys == (locked_key,)
    asyncio.run(identity.lock(Lock(FIRST, 7), seal_anew))
    assert len(told) == 1, "there is nothing to seal anew"

    asyncio.run(identity.lock(Lock(None, 8), seal_anew))
    again = NodeIdentity.load(tmp_path)
    assert locked_key not in again.data_keys, "what was sealed while it was locked stays so, in every older copy"
    assert told[1:] == [(*again.data_keys, locked_key)]
    assert again.credential() == identity.credential()


def test_a_lock_stays_until_all_is_sealed_anew(tmp_path: Path) -> None:
    identity = manager(tmp_path, FIRST)
    kept: list[tuple[bytes, ...]] = []

    async def fails(keys: tuple[bytes, ...]) -> None:
        kept.append(keys)
        raise Unavailable("the manager part ends")

    for as_of in (6, 7):
        with pytest.raises(Unavailable):
            asyncio.run(identity.lock(Lock(None, as_of), fails))
    assert kept[0] == kept[1], "a second attempt draws no other key"
    with pytest.raises(Locked):
        NodeIdentity.load(tmp_path)
    after_a_crash = NodeIdentity.load(tmp_path, FIRST)
    assert after_a_crash.data_keys == kept[0]
    asyncio.run(after_a_crash.release())
    assert len(NodeIdentity.load(tmp_path).data_keys) == 1
    assert not set(NodeIdentity.load(tmp_path).data_keys) & set(kept[0])


def test_a_change_that_nobody_waits_for_is_made_whole_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is given up while the disk works on it."""
    identity = manager(tmp_path, None)
    begun, goes_on = threading.Event(), threading.Event()
    told: list[tuple[bytes, ...]] = []
    fsync = os.fsync

    async def seal_anew(keys: tuple[bytes, ...]) -> None:
        told.append(keys)

    def slow(descriptor: int) -> None:
        begun.set()
        goes_on.wait()
        fsync(descriptor)

    async def test() -> None:
        monkeypatch.setattr(os, "fsync", slow)
        given_up = asyncio.create_task(identity.lock(Lock(FIRST, 6), seal_anew))
        await asyncio.to_thread(begun.wait)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        second = asyncio.create_task(identity.lock(Lock(FIRST, 6), seal_anew))
        await asyncio.sleep(0)
        goes_on.set()
        await second
        await identity.settled()

    asyncio.run(test())
    assert NodeIdentity.load(tmp_path, FIRST).data_keys == identity.data_keys
    assert [keys[:1] for keys in told] == [identity.data_keys]


def test_a_private_key_that_was_not_sealed_anew_is_the_next_time(tmp_path: Path) -> None:
    identity = manager(tmp_path, None)
    (tmp_path / "node.pem.new").mkdir()                 # where the new file would be written
    with pytest.raises(Internal, match="the unlock key was not changed on this node"):
        asyncio.run(identity.lock(Lock(FIRST, 6)))
    (tmp_path / "node.pem.new").rmdir()
    again = NodeIdentity.load(tmp_path, FIRST)
    asyncio.run(again.lock(Lock(FIRST, 6)))
    text = (tmp_path / "node.pem").read_bytes()
    private = text[: text.index(b"-----BEGIN CERTIFICATE-----")]
    assert is_sealed_with(private, pem(again.certificate), again.data_keys[0])


def test_a_plain_private_key_is_sealed_at_the_next_word(tmp_path: Path) -> None:
    issued = Swarm().issued("n1", NodeRole.MANAGER)
    (tmp_path / "node.pem").write_bytes(issued.key + issued.certificate + issued.root_ca)
    asyncio.run(NodeIdentity.load(tmp_path).lock(Lock(None, 1)))
    assert b"BEGIN PRIVATE KEY" not in (tmp_path / "node.pem").read_bytes()


def test_a_word_that_changes_nothing_still_outdates_those_before(tmp_path: Path) -> None:
    """A worker that is promoted hears the swarm's past, in which there was a lock once."""
    identity = manager(tmp_path, None, as_of=1)
    asyncio.run(identity.lock(Lock(None, 20)))
    asyncio.run(NodeIdentity.load(tmp_path).lock(Lock(FIRST, 12)))
    assert not NodeIdentity.load(tmp_path).locks


def test_who_becomes_a_manager_is_locked_before_anything_is_written(tmp_path: Path) -> None:
    swarm = Swarm()
    identity = swarm.node(tmp_path, "n1")
    assert not identity.locks
    issued = swarm.issued("n1", NodeRole.MANAGER)
    asyncio.run(identity.install(Issued(issued.key, issued.certificate, issued.root_ca, Lock(FIRST, 9))))
    with pytest.raises(Locked):
        NodeIdentity.load(tmp_path / "n1")
    assert NodeIdentity.load(tmp_path / "n1", FIRST).role == NodeRole.MANAGER


def test_a_worker_needs_no_unlock_key(tmp_path: Path) -> None:
    issued = Swarm().issued("w1", NodeRole.WORKER)
    NodeIdentity.create(tmp_path, Issued(issued.key, issued.certificate, issued.root_ca, Lock(FIRST, 3)))
    assert not NodeIdentity.load(tmp_path).locks


def test_a_file_of_before_there_were_data_keys_is_taken_up(tmp_path: Path) -> None:
    issued = Swarm().issued("n1", NodeRole.WORKER)
    (tmp_path / "node.pem").write_bytes(issued.key + issued.certificate + issued.root_ca)
    assert NodeIdentity.load(tmp_path).credential().key == issued.key
    assert NodeIdentity.load(tmp_path).data_keys == NodeIdentity.load(tmp_path).data_keys


def test_lost_or_damaged_data_keys_are_named(tmp_path: Path) -> None:
    manager(tmp_path, FIRST)
    (tmp_path / KEYS_FILE).write_bytes(b"{}")
    with pytest.raises(Internal, match=f"{KEYS_FILE} is damaged"):
        NodeIdentity.load(tmp_path, FIRST)
    (tmp_path / KEYS_FILE).unlink()
    with pytest.raises(NotFound, match=KEYS_FILE):
        NodeIdentity.load(tmp_path, FIRST)
