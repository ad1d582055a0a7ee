"""What the managers want of this node: assignments folded into a set of tasks.

Owns    the tasks assigned and the templates they use; pure.
In      Assignments messages, in order.
Out     Changes: what is new, what has another desired state, what is to go.

A complete set may come in parts. What it does not mention goes only when its last part is here: a session that breaks
in between takes nothing away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmpy.rpc.dispatcher_pb2 import Assignments
from swarmpy.rpc.types_pb2 import Task, TaskTemplate

__all__ = ["Changes", "Holdings"]


@dataclass(slots=True)
class Changes:
    """What one message changed."""

    new: list[Task] = field(default_factory=list)
    changed: list[Task] = field(default_factory=list)        # desired state
    removed: list[str] = field(default_factory=list)
    templates: list[TaskTemplate] = field(default_factory=list)
    complete: bool = False                                   # the whole set is known as of this message


class Holdings:
    """The assigned tasks, by id, and the templates by theirs."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.templates: dict[str, TaskTemplate] = {}
        self._mentioned: set[str] | None = None              # by the complete set under way

    def restore(self, tasks: list[Task], templates: list[TaskTemplate]) -> None:
        """Begin with what an earlier daemon held."""
        self.tasks = {task.id: task for task in tasks}
        self.templates = {template.id: template for template in templates}

    def apply(self, message: Assignments) -> Changes:
        """Take in one message."""
        if message.complete:
            self._mentioned = set()
        changes = Changes(templates=list(message.templates))
        for template in message.templates:
            self.templates[template.id] = template
        for task in message.tasks:
            held = self.tasks.get(task.id)
            if held is None:
                changes.new.append(task)
            elif held.desired_state < task.desired_state:
                changes.changed.append(task)
            else:
                continue                                     # what is desired never goes back
            self.tasks[task.id] = task
        gone = [task_id for task_id in message.removed_tasks if task_id in self.tasks]
        if self._mentioned is not None:
            self._mentioned |= {task.id for task in message.tasks}
            if not message.more:
                gone += [task_id for task_id in self.tasks if task_id not in self._mentioned and task_id not in gone]
                self._mentioned = None
                changes.complete = True
        for task_id in gone:
            del self.tasks[task_id]
        changes.removed = gone
        for template_id in message.removed_templates:
            self.templates.pop(template_id, None)
        if changes.complete:
            used = {task.template_id for task in self.tasks.values()}
            for template_id in [key for key in self.templates if key not in used]:
                del self.templates[template_id]
        return changes
