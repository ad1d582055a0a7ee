"""What a node must remember to come back into its swarm: `<data>/swarm/state.json` (0600).

The file is the commit point of `init` and `join`: without it, whatever else lies under `<data>/swarm` is of an attempt
that was not finished, and is cleared away.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from swarmpy.errors import Internal
from swarmpy.identity.durable_file import remove_durably, write_durably

__all__ = ["SwarmState", "forget_swarm", "load_state", "save_state"]

FILE_NAME = "state.json"


@dataclass(frozen=True, slots=True)
class SwarmState:
    listen_addr: str                    # ip:port
    advertise_addr: str                 # ip:port
    data_path_addr: str                 # ip
    managers: tuple[str, ...]           # ip:port of managers last known, the leader first
    raft_id: int = 0                    # this node's name in Raft while it is a manager; 0 for none
    voter: bool = False                 # whether Raft has counted it in

    @property
    def advertise_ip(self) -> str:
        return self.advertise_addr.rpartition(":")[0].strip("[]")


def load_state(directory: Path) -> SwarmState | None:
    """What was saved; None when this node is in no swarm. Raises Internal when the file is damaged."""
    path = directory / FILE_NAME
    try:
        fields = json.loads(path.read_bytes())
        return SwarmState(**{**fields, "managers": tuple(fields["managers"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as failure:
        raise Internal(f"{path} is damaged ({failure}): restore it, or remove {directory} and join again") from failure


def save_state(directory: Path, state: SwarmState) -> None:
    """Durable on return. Blocks."""
    write_durably(directory / FILE_NAME, json.dumps(dataclasses.asdict(state), indent=1).encode())


def forget_swarm(directory: Path) -> None:
    """Remove everything about the swarm, the commit point first. Blocks."""
    if directory.exists():
        remove_durably(directory / FILE_NAME)
        shutil.rmtree(directory)
