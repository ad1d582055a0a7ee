"""Taking swarmpy off a machine: `python -m swarmpy.network.removal [PREFIX [STATE_DIRECTORY]]`.

Links and tables that live containers use stay in the kernel when a daemon ends, for the next one to take up. When no
next one comes, this removes them. Call it when all containers have ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from swarmpy.errors import SwarmpyError
from swarmpy.network.host import HostNetwork
from swarmpy.network.mesh import Mesh

__all__ = ["remove_all"]


async def remove_all(prefix: str, state_dir: Path) -> None:
    """No link or table of `prefix` is left, but a table to which the administrator added rules.

    Raises Conflict while a daemon runs with that prefix.
    """
    host = HostNetwork(prefix, state_dir)
    try:
        await host.start()
        await host.repair(live=())
        await Mesh(prefix).close()
    finally:
        await host.close()


def main(prefix: str = "sw", state_dir: str = "/run/swarmpy/network") -> None:
    try:
        asyncio.run(remove_all(prefix, Path(state_dir)))
    except SwarmpyError as failure:
        sys.stderr.write(f"links and tables of {prefix} stay: {failure}\n")
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
