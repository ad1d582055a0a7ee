"""The command `swarmpyd`: reads the command line, takes the data root, runs until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from swarmpy.daemon.config import parse_arguments
from swarmpy.daemon.data_root import lock_data_root
from swarmpy.daemon.event_loop import DaemonLoop
from swarmpy.daemon.log import set_up_logging
from swarmpy.errors import SwarmpyError

__all__ = ["main"]

log = logging.getLogger(__name__)

UMASK = 0o022                       # what lies in images and logs is to look the same whoever starts us


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status 0 after SIGTERM or SIGINT, 1 when the daemon cannot start, 2 for a wrong command line."""
    try:
        config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    except SwarmpyError as failure:
        sys.stderr.write(f"swarmpyd: {failure}\n")
        sys.exit(2)
    set_up_logging(config.log_level)
    os.umask(UMASK)
    try:
        lock = lock_data_root(config.data_root)
        try:
            from swarmpy.daemon.daemon import Daemon  # after the checks: it imports all rooms

            with asyncio.Runner(loop_factory=DaemonLoop) as runner:
                runner.run(Daemon(config).run())
        finally:
            os.close(lock)
    except SwarmpyError as failure:
        log.error("swarmpyd cannot run: %s", failure)
        sys.exit(1)


if __name__ == "__main__":
    main()
