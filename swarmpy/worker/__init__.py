"""The worker part of a node: the agent, its tasks, and its share of the routing mesh."""

from swarmpy.worker.agent import Agent
from swarmpy.worker.containers import EngineExecutor
from swarmpy.worker.description import describe_host
from swarmpy.worker.executor import Executor

__all__ = ["Agent", "EngineExecutor", "Executor", "describe_host"]
