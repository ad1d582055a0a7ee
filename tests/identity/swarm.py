"""A swarm's identities for tests: a root, tokens, and nodes with real certificates on a real disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from swarmpy.identity import Issued, Issuer, JoinRoots, JoinToken, NodeIdentity, create_root, new_key
from swarmpy.identity.certificates import digest, key_pem, pem
from swarmpy.rpc.types_pb2 import NodeRole

DAY_NS = 86_400 * 10**9


class Swarm:
    """One root, its two tokens, and the means to make nodes."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.clock = clock
        self.root = create_root("swarm-1", clock())
        self.rotate()

    def rotate(self) -> None:
        self.worker_token, self.manager_token = (JoinToken.generate(digest(self.root.certificate)) for _ in range(2))

    def join_roots(self) -> JoinRoots:
        return JoinRoots.of(str(self.worker_token), str(self.manager_token))

    def issued(
        self, node_id: str, role: NodeRole, *, issuer: Issuer | None = None, lifetime_ns: int = DAY_NS
    ) -> Issued:
        key, issuer = new_key(), issuer or self.root
        leaf = issuer.issue(
            key.public_key(),
            node_id=node_id,
            role=role,
            swarm_id="swarm-1",
            now_ns=self.clock(),
            lifetime_ns=lifetime_ns,
        )
        return Issued(key_pem(key), pem(leaf), pem(issuer.certificate))

    def node(self, directory: Path, node_id: str, role: NodeRole = NodeRole.WORKER) -> NodeIdentity:
        return NodeIdentity.create(directory / node_id, self.issued(node_id, role))
