"""What one node's agent holds, and the smallest message that brings it up to date.

Owns    per session: the tasks sent (with the desired state last told), the templates the agent has, and which tasks
        may differ from that. Pure: the store is read through functions passed in.
In      ids of tasks that may have changed.
Out     Assignments messages. However long a node is slow, what waits for it is a set of ids, never a queue of messages.

A task is assigned to a node while it names the node and has reached ASSIGNED; it ceases to be when it is gone from the
store. Of a task's fields only the desired state changes once it is assigned, so a task is sent again only for that: an
agent's own status reports are not echoed to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from swarmpy.rpc.dispatcher_pb2 import Assignments
from swarmpy.rpc.types_pb2 import ASSIGNED, RUNNING, Task, TaskState, TaskTemplate

__all__ = ["AssignmentFeed", "assigned_to"]

PART_TASKS = 500                 # in one message: well under gRPC's limit of 4 MiB
PART_BYTES = 1 << 20


def assigned_to(task: Task | None, node_id: str) -> bool:
    """Whether the node's agent must hold the task."""
    return task is not None and task.node_id == node_id and task.status.state >= ASSIGNED


class AssignmentFeed:
    """The diffs of one session. `held` tells which tasks must not yet learn that they are to stop (see `mesh`)."""

    def __init__(
        self,
        node_id: str,
        task_ids: Iterable[str],
        *,
        task: Callable[[str], Task | None],
        template: Callable[[str], TaskTemplate | None],
        held: Callable[[str], bool],
    ) -> None:
        self._node_id = node_id
        self._read_task = task
        self._read_template = template
        self._held = held
        self._dirty: dict[str, None] = dict.fromkeys(task_ids)   # in order; values unused
        self._initial: set[str] = set(self._dirty)               # what the complete set still lacks
        self._begun = False
        self._unfinished = False                                 # the last message said that more follows
        self._sent: dict[str, tuple[TaskState, str]] = {}        # desired state last told, template
        self._templates: Counter[str] = Counter()                # tasks sent, by template

    def changed(self, task_id: str) -> None:
        """The task was created, changed or removed, or is no longer held back. O(1)."""
        self._dirty[task_id] = None

    @property
    def pending(self) -> bool:
        """Whether `take` may have something to send."""
        return bool(self._dirty) or not self._begun

    def take(self) -> Assignments | None:
        """The next message, or None when the agent knows all. The first begins the complete set, even if empty."""
        if not self.pending:
            return None
        message = Assignments(complete=not self._begun)
        owed = message.complete or self._unfinished
        self._begun = True
        size = 0
        while self._dirty and len(message.tasks) < PART_TASKS and size < PART_BYTES:
            task_id = next(iter(self._dirty))
            del self._dirty[task_id]
            self._initial.discard(task_id)
            size += self._tell(task_id, message)
        message.more = self._unfinished = bool(self._initial)
        return message if owed or message.tasks or message.removed_tasks else None

    def _tell(self, task_id: str, message: Assignments) -> int:
        """Add to the message what the agent must learn of one task. Returns about how many bytes that took."""
        task = self._read_task(task_id)
        told = self._sent.get(task_id)
        if task is None or not assigned_to(task, self._node_id):
            if told is not None:
                del self._sent[task_id]
                message.removed_tasks.append(task_id)
                self._release(told[1], message)
            return 0
        if told is not None and told[0] == task.desired_state:
            return 0
        size = 300 + (self._need(task.template_id, message) if told is None else 0)
        if task.desired_state > RUNNING and self._held(task_id):
            if told is not None:
                return 0                     # `changed` is called again when it is released
            task = _still_running(task)
        self._sent[task_id] = (task.desired_state, task.template_id)
        message.tasks.append(task)
        return size

    def _need(self, template_id: str, message: Assignments) -> int:
        self._templates[template_id] += 1
        if self._templates[template_id] > 1:
            return 0
        if template_id in message.removed_templates:
            message.removed_templates.remove(template_id)
            return 0
        template = self._read_template(template_id)
        if template is None:
            return 0                         # the agent rejects the task, naming the template
        message.templates.append(template)
        return int(template.ByteSize())

    def _release(self, template_id: str, message: Assignments) -> None:
        self._templates[template_id] -= 1
        if self._templates[template_id] == 0:
            del self._templates[template_id]
            message.removed_templates.append(template_id)


def _still_running(task: Task) -> Task:
    copy = Task()
    copy.CopyFrom(task)
    copy.desired_state = RUNNING
    return copy
