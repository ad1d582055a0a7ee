"""What runs in a container, as ps(1) tells it: `GET /containers/{id}/top`."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.errors import Internal, InvalidArgument

__all__ = ["parse_table", "process_table"]


async def process_table(pids: list[int], arguments: str) -> dict[str, Any]:
    """Titles and rows of `ps <arguments>` for these processes of the host."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *arguments.split(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise Internal("ps(1) is not installed on this host; it is in the package procps") from error
    out, complaint = await process.communicate()
    if process.returncode != 0:
        raise InvalidArgument(f"ps {arguments}: {complaint.decode(errors='replace').strip()}")
    return parse_table(out.decode(errors="replace"), frozenset(pids), arguments)


def parse_table(text: str, pids: frozenset[int], arguments: str) -> dict[str, Any]:
    """The rows of ps's output whose column PID is one of `pids`. The last column keeps its spaces. Pure."""
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument(f"ps {arguments}: couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return {"Titles": titles, "Processes": rows}
