"""Routes under /tasks.

Source  Docker Engine API: Task.
"""

from __future__ import annotations

from aiohttp import web

from swarmpy.api.rendered import Rendered, json_list
from swarmpy.api.swarm_access import current_manager, find_node, find_service, find_task, task_name
from swarmpy.api.swarm_json.task import spec_to_text, state_name, task_to_json, task_to_text
from swarmpy.api.swarm_node import SwarmNode
from swarmpy.engine.filters import Filters
from swarmpy.errors import NotFound
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import Task, TaskState, TaskTemplate

__all__ = ["routes"]

# `_up-to-date` is what the docker client asks for while it shows an update's progress.
FILTERS = ("desired-state", "id", "label", "name", "node", "service", "runtime", "_up-to-date")


def routes(swarm: SwarmNode) -> list[web.RouteDef]:
    noun = TaskRoutes(swarm)
    return [web.get("/tasks", noun.list), web.get("/tasks/{id}", noun.inspect)]


class TaskRoutes:
    def __init__(self, swarm: SwarmNode) -> None:
        self._swarm = swarm
        self._tasks: Rendered[Task] = Rendered()
        self._specs: Rendered[TaskTemplate] = Rendered()

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), FILTERS)
        store = (await current_manager(self._swarm)).store
        services = {service_id(store, reference) for reference in filters.get("service")}
        nodes = {node_id(store, reference, self._swarm.node_id) for reference in filters.get("node")}
        if services:
            tasks = [task for id_ in services for task in store.tasks.by_service(id_)]
        elif nodes:
            tasks = [task for id_ in nodes for task in store.tasks.by_node(id_)]
        else:
            tasks = list(store.tasks.values())
        return await json_list(
            self._text(task, store)
            if (not nodes or task.node_id in nodes) and matches(filters, task, store)
            else None
            for task in tasks
        )

    def _text(self, task: Task, store: Store) -> str:
        def render(task: Task) -> str:
            template = store.templates.get(task.template_id)
            spec = "{}" if template is None else self._specs.text(template, spec_to_text)
            return task_to_text(task, spec, store)

        return render(task) if task.networks else self._tasks.text(task, render)     # a network may change by itself

    async def inspect(self, request: web.Request) -> web.Response:
        store = (await current_manager(self._swarm)).store
        return web.json_response(task_to_json(find_task(store, request.match_info["id"]), store))


def service_id(store: Store, reference: str) -> str:
    """The id of the service meant; a service that is gone may still have tasks, under its id."""
    try:
        return find_service(store, reference).id
    except NotFound:
        return reference


def node_id(store: Store, reference: str, own_id: str) -> str:
    try:
        return find_node(store, reference, own_id).id
    except NotFound:
        return reference


def matches(filters: Filters, task: Task, store: Store) -> bool:
    if filters.values.keys() <= {"service", "node"}:
        return True                   # by which the tasks were found

    def desired(wanted: str) -> bool:
        if wanted == "accepted":      # the API counts every task that shall run as running
            return task.desired_state < TaskState.RUNNING
        return state_name(task.desired_state) == wanted

    def up_to_date(wanted: str) -> bool:
        service = store.services.get(task.service_id)
        return wanted not in ("1", "true") or (service is not None and store.versions.is_current(service, task))

    template = store.templates.get(task.template_id)
    return (
        filters.any("id", task.id.startswith)
        and filters.any("name", lambda name: task_name(task).startswith(name))
        and filters.any("desired-state", desired)
        and filters.any("runtime", lambda runtime: runtime == "container")
        and filters.any("_up-to-date", up_to_date)
        and filters.labels_match("label", template.spec.container.labels if template is not None else {})
    )
