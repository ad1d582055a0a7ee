"""Points in time as the Engine API writes and reads them. Inside they are Unix nanoseconds. Pure.

Source  RFC 3339; Docker Engine API, parameters `since` and `until`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from swarmpy.errors import InvalidArgument

__all__ = ["ZERO_TIME", "format_rfc3339", "parse_rfc3339", "parse_when"]

ZERO_TIME = "0001-01-01T00:00:00Z"
"""What the API shows for "never"."""

_SECOND = 1_000_000_000
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600 * _SECOND, "m": 60 * _SECOND, "s": _SECOND, "ms": 1_000_000, "us": 1000, "µs": 1000, "ns": 1}
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?)?(Z|[+-]\d\d:\d\d)?")


def format_rfc3339(ns: int, *, digits: int = 9) -> str:
    """UTC with nine decimals and no trailing zeros when `digits` is 0; `ZERO_TIME` for 0."""
    if ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(ns, _SECOND)
    stamp = _stamp(seconds)
    text = f"{fraction:09d}"
    if digits == 0:
        text = text.rstrip("0")
    return f"{stamp}.{text}Z" if text else f"{stamp}Z"


@lru_cache(maxsize=1024)                # objects of one list are often of the same seconds
def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_rfc3339(text: str) -> int:
    """Nanoseconds of a time stamp; `InvalidArgument` when it is none. Without a zone it is UTC."""
    found = _STAMP.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"'{text}' is not a time as in RFC 3339")
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
    except ValueError as error:
        raise InvalidArgument(f"'{text}' is not a time as in RFC 3339") from error
    offset = timedelta()
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6])) * (-1 if zone[0] == "-" else 1)
    whole = int(moment.replace(tzinfo=timezone(offset)).timestamp())
    return whole * _SECOND + int((fraction or "0").ljust(9, "0"))


def parse_when(text: str | None, now_ns: int) -> int | None:
    """A `since` or `until` parameter: Unix seconds with decimals, RFC 3339, or a duration back from now ("10m").

    None for an absent one and for "0", which Docker's clients send for "not set".
    """
    if not text or text == "0":
        return None
    try:
        return int(Decimal(text) * _SECOND)
    except InvalidOperation:
        pass
    if _DURATION.sub("", text) == "" and text:
        return now_ns - sum(int(Decimal(number) * _UNITS[unit]) for number, unit in _DURATION.findall(text))
    return parse_rfc3339(text)
