"""Writes to nodes. Promotion and demotion only state the wish here; the role manager carries it out.

Source  Docker Engine API: POST /nodes/{id}/update, DELETE /nodes/{id}.
"""

from __future__ import annotations

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.manager.control.services import check_spec_unchanged
from swarmpy.manager.control.specs import check_node
from swarmpy.manager.replicated_log import LogMember
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.types_pb2 import Node, NodeRole, NodeSpec, NodeStatus

__all__ = ["remove_node", "update_node"]


def update_node(
    store: Store, members: tuple[LogMember, ...], id_: str, version: int, spec: NodeSpec
) -> Transaction:
    """Replace the spec.

    Conflict when it was changed after `version`, or when a demotion would cost the last manager or the quorum.
    """
    check_node(spec)
    node = store.nodes[id_]
    check_spec_unchanged(node.meta, version, f"node {id_}")
    if node.spec.role == NodeRole.MANAGER and spec.role == NodeRole.WORKER:
        check_demotion(store, members, id_)
    changed = Node()
    changed.CopyFrom(node)
    changed.spec.CopyFrom(spec)
    transaction = Transaction()
    transaction.put(changed)
    return transaction


def check_demotion(store: Store, members: tuple[LogMember, ...], id_: str) -> None:
    if sum(node.spec.role == NodeRole.MANAGER for node in store.nodes.values()) == 1:
        raise Conflict(f"node {id_} is the last manager of the swarm and cannot be demoted")
    voters = [member for member in members if member.voter]
    leaving = next((member for member in voters if member.node_id == id_), None)
    if leaving is None:
        return
    rest = [member for member in voters if member is not leaving]
    reachable = sum(member.reachable for member in rest)
    if reachable <= len(rest) // 2:
        raise Conflict(
            f"node {id_} cannot be demoted: only {reachable} of the {len(rest)} other managers are reachable, "
            "and the swarm would lose its quorum"
        )


def remove_node(store: Store, members: tuple[LogMember, ...], id_: str, *, force: bool) -> Transaction:
    """Forget a node. InvalidArgument for a manager, or without `force` for a node that is not down."""
    node = store.nodes[id_]
    if node.spec.role == NodeRole.MANAGER or any(member.node_id == id_ for member in members):
        raise InvalidArgument(
            f"node {id_} is a manager of the swarm; demote it to worker before removing it"
        )
    if not force and node.status.state == NodeStatus.READY:
        raise InvalidArgument(f"node {id_} is not down and can't be removed; shut it down or use --force")
    transaction = Transaction()
    transaction.remove(node)
    return transaction
