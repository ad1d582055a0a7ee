"""Where the daemon is: SIGUSR1 writes the stacks of all threads and of all tasks to standard error, its log.

As dockerd does with goroutines. The threads' are written even while the event loop does not turn, and also when the
daemon dies of a fault or by SIGABRT, which a service manager's watchdog sends.

Source  Python documentation, `faulthandler.enable` and `faulthandler.register`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import signal
import sys

__all__ = ["tell_stacks_on_signal"]


def tell_stacks_on_signal() -> None:
    """From now on, for the running event loop; without standard error there is nobody to tell."""
    if sys.stderr is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_tasks)
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True, chain=True)
        faulthandler.enable(sys.stderr)


def _tell_tasks() -> None:
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        task.print_stack(file=text)
    sys.stderr.write(text.getvalue())
    sys.stderr.flush()
