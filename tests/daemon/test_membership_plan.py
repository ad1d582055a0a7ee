"""Which managers vote: the plan that brings log and store together."""

from __future__ import annotations

from swarmpy.manager.membership import MembershipPlan, plan_membership
from swarmpy.manager.replicated_log import LogMember
from swarmpy.rpc.types_pb2 import ManagerStatus, Node, NodeRole, NodeSpec


def node(node_id: str, wanted: NodeRole = NodeRole.MANAGER, raft_id: int = 0) -> Node:
    status = ManagerStatus(raft_id=raft_id, addr=f"{node_id}:2377") if raft_id else None
    return Node(id=node_id, spec=NodeSpec(role=wanted), manager=status)


def member(raft_id: int, node_id: str, *, voter: bool = True) -> LogMember:
    return LogMember(raft_id, node_id, f"{node_id}:2377", voter=voter, reachable=True, leader=node_id == "a")


def test_nothing_to_do_when_they_agree() -> None:
    nodes = [node("a", raft_id=1), node("b", raft_id=2), node("w", NodeRole.WORKER)]
    assert plan_membership(nodes, [member(1, "a"), member(2, "b")], "a") == MembershipPlan()


def test_a_demoted_manager_loses_its_vote_and_keeps_its_status_until_then() -> None:
    nodes = [node("a", raft_id=1), node("b", NodeRole.WORKER, raft_id=2)]
    plan = plan_membership(nodes, [member(1, "a"), member(2, "b")], "a")
    assert plan == MembershipPlan(retire=(member(2, "b"),))
    assert plan_membership(nodes, [member(1, "a")], "a") == MembershipPlan(record={"b": None})


def test_a_removed_node_loses_its_vote() -> None:
    plan = plan_membership([node("a", raft_id=1)], [member(1, "a"), member(2, "gone")], "a")
    assert plan == MembershipPlan(retire=(member(2, "gone"),))


def test_a_demoted_leader_hands_over_and_removes_nobody_for_it() -> None:
    nodes = [node("a", NodeRole.WORKER, raft_id=1), node("b", raft_id=2)]
    assert plan_membership(nodes, [member(1, "a"), member(2, "b")], "a") == MembershipPlan(hand_over=True)


def test_a_voter_is_recorded_and_a_learner_is_not() -> None:
    nodes = [node("a", raft_id=1), node("b"), node("c")]
    plan = plan_membership(nodes, [member(1, "a"), member(2, "b"), member(3, "c", voter=False)], "a")
    assert plan == MembershipPlan(record={"b": ManagerStatus(raft_id=2, addr="b:2377")})


def test_a_promoted_node_that_has_not_come_yet_is_waited_for() -> None:
    assert plan_membership([node("a", raft_id=1), node("b")], [member(1, "a")], "a") == MembershipPlan()


def test_a_demoted_learner_is_retired() -> None:
    nodes = [node("a", raft_id=1), node("b", NodeRole.WORKER)]
    learner = member(2, "b", voter=False)
    assert plan_membership(nodes, [member(1, "a"), learner], "a").retire == (learner,)
