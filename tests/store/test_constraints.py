"""Placement constraints: what is understood, what is refused, and what it means."""

from __future__ import annotations

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.manager.store import constraints_of, validate_constraint, validate_spread_descriptor
from swarmpy.rpc.types_pb2 import MANAGER, Node


def node() -> Node:
    node = Node(id="abc123", role=MANAGER)
    node.description.hostname = "Web-1"
    node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
    node.description.engine_labels["Storage"] = "SSD"
    node.spec.annotations.labels["disk"] = "nvme"
    return node


@pytest.mark.parametrize(
    ("expression", "admitted"),
    [
        ("node.id == abc123", True),
        ("node.id==ABC123", True),
        ("node.id != abc123", False),
        ("NODE.Hostname == web-1", True),
        ("node.role == manager", True),
        ("node.role != worker", True),
        ("node.platform.os == LINUX", True),
        ("node.platform.arch == x86_64", True),
        ("node.platform.arch == amd64", True),
        ("node.platform.arch != amd64", False),
        ("node.labels.disk == NVME", True),
        ("node.labels.Disk == nvme", False),       # label names keep their case
        ("node.labels.missing != x", True),
        ("node.labels.missing == x", False),
        ("engine.labels.Storage == ssd", True),
        ("engine.labels.Storage != ssd", False),
    ],
)
def test_meaning(expression: str, admitted: bool) -> None:
    (constraint,) = constraints_of([expression])
    asked = node()
    assert constraint.admits(asked) is admitted
    assert asked == node()                          # looking changes nothing


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("node.id", "expected one operator from ==, !="),
        ("node.id = x", "expected one operator from ==, !="),
        ("== x", "key '' is invalid"),
        ("node id == x", "key 'node id' is invalid"),
        ("node.id ==", "value '' is invalid"),
        ("node.id == a%b", "value 'a%b' is invalid"),
        ("node.color == red", "no node has the key 'node.color'"),
        ("node.labels. == red", "no node has the key 'node.labels.'"),
    ],
)
def test_refusals(expression: str, error: str) -> None:
    with pytest.raises(InvalidArgument, match=error):
        validate_constraint(expression)


def test_preferences_spread_over_labels() -> None:
    validate_spread_descriptor("node.labels.rack")
    validate_spread_descriptor("engine.labels.zone")
    for descriptor in ("node.id", "rack", ""):
        with pytest.raises(InvalidArgument):
            validate_spread_descriptor(descriptor)
