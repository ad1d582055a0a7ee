"""A node's certificate on disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from swarmpy.errors import Internal, InvalidArgument, NotFound
from swarmpy.identity import Issued, Lock, NodeIdentity, create_root
from swarmpy.identity.certificates import pem
from swarmpy.identity.durable_file import write_durably
from swarmpy.rpc.types_pb2 import NodeRole
from tests.identity.swarm import Swarm


def test_what_is_stored_loads_again(tmp_path: Path) -> None:
    swarm = Swarm()
    made = swarm.node(tmp_path, "n1", NodeRole.MANAGER)
    again = NodeIdentity.load(tmp_path / "n1")
    assert (again.node_id, again.role) == ("n1", NodeRole.MANAGER)
    assert (again.certificate, again.root_ca) == (made.certificate, swarm.root.certificate)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "n1").iterdir()} == {
        "node.pem": 0o600, "data.keys": 0o600,
    }  # fmt: skip
    assert (tmp_path / "n1").stat().st_mode & 0o777 == 0o700


def test_nothing_and_damage_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not part of a swarm"):
        NodeIdentity.load(tmp_path)
    Swarm().node(tmp_path, "n1")
    path = tmp_path / "n1" / "node.pem"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(Internal, match="damaged"):
        NodeIdentity.load(tmp_path / "n1")


def test_a_renewal_changes_role_and_tells(tmp_path: Path) -> None:
    swarm = Swarm()
    identity = swarm.node(tmp_path, "n1")
    seen: list[NodeRole] = []
    end = identity.on_change(lambda: seen.append(identity.role))
    with identity.changes() as changed:
        asyncio.run(identity.install(swarm.issued("n1", NodeRole.MANAGER)))
        assert changed.is_set()
    assert seen == [NodeRole.MANAGER]
    end()
    asyncio.run(identity.install(swarm.issued("n1", NodeRole.MANAGER)))
    assert len(seen) == 1
    assert NodeIdentity.load(tmp_path / "n1").role == NodeRole.MANAGER
    with pytest.raises(InvalidArgument, match="another node"):
        asyncio.run(identity.install(swarm.issued("n2", NodeRole.MANAGER)))


def test_a_disk_that_does_not_take_it_leaves_the_certificate_as_it_is(tmp_path: Path) -> None:
    swarm = Swarm()
    identity = swarm.node(tmp_path, "n1")
    before, roots = identity.certificate, identity.root_ca_pem
    (tmp_path / "n1" / "node.pem.new").mkdir()          # where the new file would be written
    with pytest.raises(Internal, match="could not be stored"):
        asyncio.run(identity.install(swarm.issued("n1", NodeRole.WORKER)))
    with pytest.raises(Internal, match="could not be stored"):
        asyncio.run(identity.trust(roots + pem(Swarm().root.certificate), 1))
    assert (identity.certificate, identity.root_ca_pem) == (before, roots)
    assert NodeIdentity.load(tmp_path / "n1").certificate == before
    (tmp_path / "n1" / "node.pem.new").rmdir()
    asyncio.run(identity.trust(roots + pem(Swarm().root.certificate), 1))
    assert len(NodeIdentity.load(tmp_path / "n1").roots) == 2


def test_roots_are_trusted_in_the_order_of_the_swarms_word(tmp_path: Path) -> None:
    swarm, coming = Swarm(), create_root("coming", time.time_ns())
    identity = swarm.node(tmp_path, "n1")
    old, new = pem(swarm.root.certificate), pem(coming.certificate)
    asyncio.run(identity.trust(old + new, 5))
    asyncio.run(identity.trust(old, 4))                 # of before
    assert identity.root_ca_pem == old + new
    late = swarm.issued("n1", NodeRole.WORKER)          # asked for before, and long on its way
    asyncio.run(identity.install(Issued(late.key, late.certificate, old, Lock(None, 4))))
    assert (identity.root_ca_pem, identity.issuer) == (old + new, swarm.root.certificate)
    with pytest.raises(InvalidArgument, match="not signed by the swarm's root"):
        asyncio.run(identity.trust(new, 6))
    renewed = swarm.issued("n1", NodeRole.WORKER, issuer=coming)
    asyncio.run(identity.install(Issued(renewed.key, renewed.certificate, new + old, Lock(None, 6))))
    asyncio.run(identity.trust(new, 7))
    assert NodeIdentity.load(tmp_path / "n1").roots == identity.roots == (coming.certificate,)


def test_reload_takes_up_what_is_on_the_disk(tmp_path: Path) -> None:
    swarm = Swarm()
    identity = swarm.node(tmp_path, "n1")
    given = swarm.issued("n1", NodeRole.MANAGER)
    (tmp_path / "n1" / "node.pem").write_bytes(given.key + given.certificate + given.root_ca)
    asyncio.run(identity.reload())
    assert identity.role == NodeRole.MANAGER
    assert NodeIdentity.load(tmp_path / "n1").certificate == identity.certificate


def test_a_certificate_for_another_key_or_root_is_refused() -> None:
    swarm, other = Swarm(), Swarm()
    mine = swarm.issued("n1", NodeRole.WORKER)
    with pytest.raises(InvalidArgument, match="key"):
        type(mine)(swarm.issued("n1", NodeRole.WORKER).key, mine.certificate, mine.root_ca)
    with pytest.raises(InvalidArgument, match="root"):
        type(mine)(mine.key, mine.certificate, other.issued("n1", NodeRole.WORKER).root_ca)


def test_a_write_that_died_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_durably(target, b"old")
    (tmp_path / "file.new").write_bytes(b"ha")          # what a writer leaves that dies before its rename
    assert target.read_bytes() == b"old"
    write_durably(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
