"""How results are printed: tables as docker's, `--format` templates, ages and sizes in words.

Source  `docker … --format`: `json`, `table {{.A}}\\t{{.B}}` and plain templates of placeholders and `{{json .A}}`.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarmpy.cli.failures import ApiError

__all__ = ["age", "confirmed", "print_inspected", "print_rows", "print_text", "print_warning", "short_id", "size_text"]

PLACEHOLDER = re.compile(r"\{\{\s*(json\s+)?\.([A-Za-z.]*)\s*\}\}")
ID_LENGTH = 12


def print_text(text: str) -> None:
    sys.stdout.write(text + "\n")


def print_warning(text: str) -> None:
    sys.stderr.write(text + "\n")


def confirmed(question: str) -> bool:
    """Whether the user says yes; the end of the input is a no."""
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], template: str = "", *, quiet_field: str | None = None
) -> None:
    """One line a row. `columns` are headings; a row's field is its heading without spaces.

    Raises ValueError for a template that uses more of Go's language than placeholders.
    """
    if quiet_field is not None:
        for row in rows:
            print_text(str(row[quiet_field]))
        return
    if template in ("json", "{{json .}}"):
        for row in rows:
            print_text(json.dumps(row))
        return
    if template.startswith("table "):
        parts = template.removeprefix("table ").replace("\\t", "\t").split("\t")
        table([heading_of(part) for part in parts], [[fill(part, row) for part in parts] for row in rows])
        return
    if template and template != "table":
        for row in rows:
            print_text(fill(template.replace("\\t", "\t"), row))
        return
    table(columns, [[str(row[field_of(column)]) for column in columns] for row in rows])


def print_inspected(names: Sequence[str], find: Callable[[str], Mapping[str, Any]], template: str = "") -> None:
    """The objects in full, as one list, and then what kept others out of it. Raises the last of these errors."""
    found: list[Mapping[str, Any]] = []
    failures: list[Exception] = []
    for name in names:
        try:
            found.append(find(name))
        except (ApiError, ValueError) as error:
            failures.append(error)
    if template:
        print_rows(found, [], template)
    else:
        print_text(json.dumps(found, indent=4))
    for failure in failures[:-1]:
        print_warning(str(failure))
    if failures:
        raise failures[-1]


def field_of(column: str) -> str:
    """`DESIRED STATE` -> `DesiredState`, `ID` -> `ID`."""
    if column in ("ID", "CONTAINER ID", "IMAGE ID", "DOCKER_HOST"):
        return {"DOCKER_HOST": "DockerHost"}.get(column, "ID")
    return "".join(word.capitalize() for word in column.split())


def heading_of(part: str) -> str:
    found = PLACEHOLDER.search(part)
    name = found.group(2) if found else part
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()


def fill(template: str, row: Mapping[str, Any]) -> str:
    """A template with its placeholders replaced. Nested fields are reached with dots."""

    def value(found: re.Match[str]) -> str:
        present: Any = row
        for name in filter(None, found.group(2).split(".")):
            if not isinstance(present, Mapping) or name not in present:
                raise ValueError(f"--format: there is no field {name!r}; the fields are {', '.join(row)}")
            present = present[name]
        return json.dumps(present) if found.group(1) or isinstance(present, dict | list) else str(present)

    filled = PLACEHOLDER.sub(value, template)
    if "{{" in filled:
        raise ValueError(f"--format: only {{{{.Field}}}} and {{{{json .Field}}}} are understood, not {template!r}")
    return filled


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns three spaces apart, as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for cells in (headings, *rows):
        print_text("   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def short_id(text: str) -> str:
    return text.removeprefix("sha256:")[:ID_LENGTH]


def age(timestamp: str | int) -> str:
    """`2 hours`, from an RFC 3339 time or Unix seconds to now."""
    if isinstance(timestamp, int):
        moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    else:
        moment = datetime.datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", timestamp).replace("Z", "+00:00"))
    seconds = max((datetime.datetime.now(datetime.UTC) - moment).total_seconds(), 0)
    if seconds < 1:
        return "Less than a second"
    for unit, length, until in (
        ("second", 1, 60),
        ("minute", 60, 60),
        ("hour", 3600, 48),
        ("day", 86400, 14),
        ("week", 604800, 9),
        ("month", 2592000, 24),
    ):
        count = int(seconds / length)
        if count < until:
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{int(seconds / 31536000)} years"


def size_text(size_bytes: float) -> str:
    """`4.43MB`, in powers of 1000 as docker shows sizes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g}{unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g}TB"
