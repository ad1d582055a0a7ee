"""Placement constraints: `node.labels.disk == ssd`.

Owns    the syntax and meaning of a constraint, and what attributes a node has.
Source  docs.docker.com, "docker service create --constraint": keys `node.*` and `engine.labels.*`, operators == and !=.
        Keys other than label names, and all values, are compared without regard to case. A label that a node does
        not have is the empty string, so `!=` holds there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from swarmpy.errors import InvalidArgument
from swarmpy.rpc.types_pb2 import Node, NodeRole, Platform

__all__ = [
    "Constraint",
    "constraints_of",
    "node_attribute",
    "normal_architecture",
    "parse_constraint",
    "validate_constraint",
    "validate_spread_descriptor",
]

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}

_ATTRIBUTES: dict[str, Callable[[Node], str]] = {
    "node.id": lambda node: node.id,
    "node.hostname": lambda node: node.description.hostname,
    "node.role": lambda node: NodeRole.Name(node.role),
    "node.platform.os": lambda node: node.description.platform.os,
    "node.platform.arch": lambda node: normal_architecture(node.description.platform),
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on a node."""

    key: str
    equal: bool          # == rather than !=
    value: str           # folded

    def admits(self, node: Node) -> bool:
        return (node_attribute(node, self.key).casefold() == self.value) is self.equal


def constraints_of(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """Parse all constraints of a placement. Raises InvalidArgument."""
    return tuple(parse_constraint(expression) for expression in expressions)


@lru_cache(maxsize=4096)
def parse_constraint(expression: str) -> Constraint:
    """Raises InvalidArgument, with the expression and what is wrong with it."""
    operator = next((sign for sign in ("==", "!=") if sign in expression), None)
    if operator is None:
        raise InvalidArgument(f"constraint {expression!r}: expected one operator from ==, !=")
    key, value = (side.strip() for side in expression.split(operator, 1))
    if not _KEY.fullmatch(key):
        raise InvalidArgument(f"constraint {expression!r}: key {key!r} is invalid")
    if not _VALUE.fullmatch(value):
        raise InvalidArgument(f"constraint {expression!r}: value {value!r} is invalid")
    known = _attribute_key(key)
    if known is None:
        raise InvalidArgument(
            f"constraint {expression!r}: no node has the key {key!r}; use {', '.join(_ATTRIBUTES)}, "
            "node.labels.NAME or engine.labels.NAME"
        )
    if known == "node.platform.arch":
        value = _ARCHITECTURES.get(value.lower(), value)
    return Constraint(known, operator == "==", value.casefold())


def validate_constraint(expression: str) -> None:
    """Raises InvalidArgument when a constraint could not be understood."""
    parse_constraint(expression)


def validate_spread_descriptor(descriptor: str) -> None:
    """Raises InvalidArgument unless a placement preference spreads over `node.labels.NAME` or `engine.labels.NAME`."""
    known = _attribute_key(descriptor)
    if known is None or known in _ATTRIBUTES:
        raise InvalidArgument(
            f"placement preference spread={descriptor!r}: use node.labels.NAME or engine.labels.NAME"
        )


def node_attribute(node: Node, key: str) -> str:
    """The value a node has for a key; the empty string when it has none."""
    attribute = _ATTRIBUTES.get(key)
    if attribute is not None:
        return attribute(node)
    known = _attribute_key(key) or ""
    if known.startswith(_NODE_LABEL):
        labels, name = node.spec.annotations.labels, known[len(_NODE_LABEL):]
    else:
        labels, name = node.description.engine_labels, known[len(_ENGINE_LABEL):]
    return labels.get(name, "")       # not labels[name], which inserts the name into a protobuf map


def normal_architecture(platform: Platform) -> str:
    """The architecture as Go names it, whatever `uname -m` calls it."""
    return _ARCHITECTURES.get(platform.architecture.lower(), platform.architecture.lower())


@lru_cache(maxsize=4096)
def _attribute_key(key: str) -> str | None:
    """The key with its fixed part in lower case, or None when there is no such attribute."""
    folded = key.lower()
    if folded in _ATTRIBUTES:
        return folded
    for prefix in (_NODE_LABEL, _ENGINE_LABEL):
        if folded.startswith(prefix) and len(key) > len(prefix):
            return prefix + key[len(prefix):]
    return None
