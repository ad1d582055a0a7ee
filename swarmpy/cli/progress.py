"""Waiting until a service has converged, and showing how far it is.

A service has converged when as many tasks of its present spec run as it wants and its update, if one goes on, is done;
an update that was paused or rolled back ends the wait with that message.
Source  docker service create/update without --detach; Docker Engine API: Service.UpdateStatus, GET /tasks.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from swarmpy.cli.declared import Exit
from swarmpy.cli.output import print_text

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["wait_for_service"]

JSON = dict[str, Any]
POLL_S = 0.2
FINAL = {
    "paused": "service update paused",
    "rollback_paused": "service rollback paused",
    "rollback_completed": "service rolled back",
}


def wait_for_service(daemon: Client, service_id: str, *, quiet: bool) -> None:
    """Return when the service has converged. Exits with 1 when its update was paused or rolled back on failure."""
    shown = ""
    wanted_rollback = False
    while True:
        service = daemon.get(f"/services/{service_id}")
        update = service.get("UpdateStatus") or {}
        state = update.get("State", "")
        wanted_rollback = wanted_rollback or "manually requested" in update.get("Message", "")
        filters = {"service": [service_id], "_up-to-date": ["true"]}
        tasks = daemon.get("/tasks", {"filters": json.dumps(filters)})
        text = progress(service, tasks)
        if text != shown and not quiet:
            show(text)
            shown = text
        if state in ("paused", "rollback_paused") or (state == "rollback_completed" and not wanted_rollback):
            finish(quiet, f"{FINAL[state]}: {update.get('Message', '')}")
            raise Exit(1)
        if converged(service, tasks) and state not in ("updating", "rollback_started"):
            finish(quiet, f"verify: Service {service['ID']} converged")
            return
        time.sleep(POLL_S)


def replicas(service: JSON) -> int:
    return int(service["Spec"]["Mode"]["Replicated"].get("Replicas", 1))


def running(tasks: list[JSON]) -> set[int]:
    """Slots whose task runs and shall run."""
    return {
        task.get("Slot", 0)
        for task in tasks
        if task["DesiredState"] == "running" and task["Status"]["State"] == "running"
    }


def converged(service: JSON, tasks: list[JSON]) -> bool:
    wanted = {task.get("Slot", 0) for task in tasks if task["DesiredState"] == "running"}
    return len(running(tasks)) == replicas(service) == len(wanted)


def progress(service: JSON, tasks: list[JSON]) -> str:
    """`overall progress: 2 out of 3 tasks`, and why a task that should run does not."""
    lines = [f"overall progress: {len(running(tasks))} out of {replicas(service)} tasks"]
    latest = sorted(tasks, key=lambda task: task["CreatedAt"])
    slots = {task.get("Slot", 0): task for task in latest if task["DesiredState"] in ("ready", "running")}
    for slot, task in sorted(slots.items())[:20]:
        error = task["Status"].get("Err", "")
        lines.append(f"{slot}/{replicas(service)}: {error or task['Status']['State']}")
    return "\n".join(lines)


def show(text: str) -> None:
    """On a terminal in place of what was there; elsewhere only the first line, so that a log stays short."""
    if not sys.stdout.isatty():
        print_text(text.split("\n", 1)[0])
        return
    sys.stdout.write("\x1b[J" + text + "\n" + f"\x1b[{text.count(chr(10)) + 1}A")
    sys.stdout.flush()


def finish(quiet: bool, text: str) -> None:
    if quiet:
        return
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[J")
    print_text(text)
