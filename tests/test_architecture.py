"""Imports point one way. The arrows here are the architecture; everything else in the suite may change before these."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "swarmpy"

# Which rooms a room may import from. `errors` and `rpc` (generated code) have no arrows of their own; `__version__` is
# everybody's.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "detach_keys": {"errors"},
    "rpc": set(),
    "runtime": set(),
    "cli": {"errors", "lab", "detach_keys"},
    "image": {"errors"},
    "network": {"errors"},
    "identity": {"errors", "rpc"},
    "engine": {"errors", "detach_keys", "runtime", "network", "image"},
    "worker": {"errors", "rpc", "identity", "engine", "image", "network"},
    "manager.replicated_log": {"errors"},
    "manager.raft": {"errors", "rpc", "identity", "manager.replicated_log"},
    "manager.store": {"errors", "rpc", "manager.replicated_log"},
    "manager.orchestrator": {"errors", "rpc", "manager.store"},
    "manager.allocator": {"errors", "rpc", "manager.store"},
    "manager.scheduler": {"errors", "rpc", "manager.store"},
    "manager.dispatcher": {"errors", "rpc", "identity", "manager.store", "manager.replicated_log"},
    "manager.ca": {"errors", "rpc", "identity", "manager.store", "manager.replicated_log"},
    "manager.control": {"errors", "rpc", "manager.store", "manager.replicated_log"},
    "manager": {"errors", "rpc", "identity", "manager.*"},
    "api": {
        "errors", "detach_keys", "rpc", "engine", "image", "manager.control", "manager.store", "manager.replicated_log",
    },
    "lab": {"errors", "network"},
    "daemon": {
        "errors", "rpc", "identity", "engine", "image", "runtime", "network", "worker", "manager", "manager.*", "api",
    },
}


def room_of(module: str) -> str:
    """The longest room name that `swarmpy.<module>` lies in."""
    parts = module.split(".")[1:]
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in ARROWS:
            return name
    return parts[0] if parts else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "swarmpy"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_follow_the_arrows(path: Path) -> None:
    relative = path.relative_to(PACKAGE.parent)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    room = room_of(module)
    if room == "rpc" or module == "swarmpy":
        return
    allowed = ARROWS[room] | {room, "__version__"}
    for name in imports(path):
        target = room_of(name)
        fine = target == "" or target in allowed or ("manager.*" in allowed and target.startswith("manager"))
        assert fine, f"{module} ({room}) imports {name} ({target}); {room} may import {sorted(allowed)}"
