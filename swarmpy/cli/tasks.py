"""Lists of tasks, as `service ps` and `node ps` show them: a slot's present task, then its past ones indented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarmpy.cli.failures import ApiError
from swarmpy.cli.output import age, print_rows, short_id

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["Names", "print_tasks"]

JSON = dict[str, Any]
COLUMNS = ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"]
ERROR_WIDTH = 60


class Names:
    """Names of nodes and services by id; asked for once, an id that is gone stays an id. So do all unless `resolve`."""

    def __init__(self, daemon: Client, *, resolve: bool = True) -> None:
        self._daemon = daemon
        self._resolve = resolve
        self._known: dict[str, str] = {}

    def node(self, id_: str) -> str:
        return self._name(f"/nodes/{id_}", id_, lambda node: str(node["Description"]["Hostname"])) if id_ else ""

    def service(self, id_: str) -> str:
        return self._name(f"/services/{id_}", id_, lambda service: str(service["Spec"]["Name"]))

    def _name(self, path: str, id_: str, read: Any) -> str:
        if not self._resolve:
            return id_
        if path not in self._known:
            try:
                self._known[path] = read(self._daemon.get(path)) or id_
            except ApiError as error:
                if error.status != 404:
                    raise
                self._known[path] = id_
        return self._known[path]


def print_tasks(
    daemon: Client, tasks: list[JSON], format_: str, *, quiet: bool, no_trunc: bool, no_resolve: bool
) -> None:
    """`no_resolve`: ids instead of the names of services and nodes."""
    names = Names(daemon, resolve=not no_resolve)
    ordered = sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)
    ordered.sort(key=lambda task: (names.service(task["ServiceID"]), task.get("Slot", 0)))
    rows, previous = [], ""
    for task in ordered:
        name = f"{names.service(task['ServiceID'])}.{task.get('Slot', 0)}"
        shown = f" \\_ {name}" if name == previous else name
        previous = name
        status = task["Status"]
        error = status.get("Err", "")
        if error and not no_trunc and len(error) > ERROR_WIDTH:
            error = error[: ERROR_WIDTH - 1] + "…"
        rows.append(
            {
                "ID": task["ID"] if no_trunc else short_id(task["ID"]),
                "Name": name if format_ else shown,
                "Image": task["Spec"].get("ContainerSpec", {}).get("Image", "").split("@")[0],
                "Node": names.node(task.get("NodeID", "")),
                "DesiredState": task["DesiredState"].capitalize(),
                "CurrentState": f"{status['State'].capitalize()} {age(status['Timestamp']).lower()} ago",
                "Error": f'"{error}"' if error else "",
                "Ports": ",".join(
                    f"*:{port['PublishedPort']}->{port['TargetPort']}/{port['Protocol']}"
                    for port in status.get("PortStatus", {}).get("Ports") or []
                ),
            }
        )
    print_rows(rows, COLUMNS, format_, quiet_field="ID" if quiet else None)
