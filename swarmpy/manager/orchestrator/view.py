"""What the orchestrator knows of one service: its slots, how far its update is, and where something happened.

Owns    the index of one service. Derived from the store and kept up by its watch; a new leader makes it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from swarmpy.manager.orchestrator.progress import Progress, may_update
from swarmpy.manager.orchestrator.slots import SlotIndex
from swarmpy.manager.store import Versions
from swarmpy.rpc.types_pb2 import Service, Task

__all__ = ["ServiceView"]


class ServiceView:
    """`service` is None when it was removed and has left tasks behind."""

    def __init__(self, service: Service | None, tasks: Iterable[Task], versions: Versions) -> None:
        self._versions = versions
        self.service = service
        self.slots = SlotIndex(tasks)
        self.progress: Progress | None = None       # while slots may change their version
        self._stirred = dict.fromkeys(self.slots)
        self._follow()

    def put_service(self, service: Service | None) -> None:
        """The service is new, changed or (None) removed. Under another spec every slot is to be looked at."""
        known, self.service = self.service, service
        if known is None or service is None or known.spec_version != service.spec_version:
            self._stirred = dict.fromkeys(self.slots)
        self._follow()

    def _follow(self) -> None:
        service = self.service
        if service is None or not may_update(service):
            self.progress = None
        elif self.progress is None or not self.progress.is_of(service):
            self.progress = Progress(service, self.slots.slots(), self._versions)

    def put_task(self, task: Task) -> None:
        """A task is new or changed."""
        progress = self.progress
        if (progress is None or progress.is_indifferent_to(task)) and self.slots.put_progress(task):
            return
        slot = self.slots.put(task)
        if progress is not None:
            progress.note(slot)

    def remove_task(self, task: Task) -> None:
        """A task is no longer in the store."""
        slot = self.slots.remove(task)
        if self.progress is not None:
            if slot is not None:
                self.progress.note(slot)
            else:
                self.progress.forget(task.slot)

    def stir(self, number: int) -> None:
        """Something happened that may change what is decided for a slot."""
        self._stirred[number] = None

    def take_stirred(self, at_once: int | None = None) -> Collection[int]:
        """The slots to be looked at, in the order they came up, all or `at_once` of them; none a second time."""
        if at_once is None or len(self._stirred) <= at_once:
            stirred, self._stirred = self._stirred, {}
            return stirred
        some = list(islice(self._stirred, at_once))
        for number in some:
            del self._stirred[number]
        return some

    @property
    def has_stirred(self) -> bool:
        """Whether slots are left to be looked at."""
        return bool(self._stirred)
