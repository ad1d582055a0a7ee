"""The scheduler stage: which node runs a task."""

from swarmpy.manager.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
