"""The orchestrator stage: which tasks there should be."""

from swarmpy.manager.orchestrator.orchestrator import Orchestrator
from swarmpy.manager.orchestrator.reaper import TaskReaper

__all__ = ["Orchestrator", "TaskReaper"]
