"""The daemon's own log: one line of `key=value` pairs per event, on standard error (logfmt).

What a caller passes as `extra` becomes pairs of their own. Secrets have no business in a log call; nothing here could
tell them apart afterwards.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["set_up_logging"]

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+")


class LogfmtFormatter(logging.Formatter):
    """`time=… level=… room=… msg="…" key=value …`; a traceback follows as the pair `trace`."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "room": record.name.removeprefix("swarmpy."),
            "msg": record.getMessage(),
        }
        pairs |= {key: str(value) for key, value in vars(record).items() if key not in STANDARD}
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())


def set_up_logging(level: str) -> None:
    """Send everything at `level` (debug, info, warning, error) and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _quoted(value: str) -> str:
    return value if value and BARE.issuperset(value) else json.dumps(value, ensure_ascii=False)
