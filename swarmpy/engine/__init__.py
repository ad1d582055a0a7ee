"""What one host can do: containers, images, volumes, their events and streams.

`Engine` is the door. Law: a state is on disk before anyone is told of it, and a restarted daemon finds everything that
runs or ended meanwhile. `docs/design/engine.md` has the rest.
"""

from swarmpy.engine.config import (
    ContainerConfig,
    EndpointConfig,
    HealthConfig,
    HostConfig,
    IPAMConfig,
    LogConfig,
    Mount,
    NetworkingConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from swarmpy.engine.containers import Containers
from swarmpy.engine.endpoints import endpoint_id
from swarmpy.engine.engine import Engine
from swarmpy.engine.events import Event, EventBus
from swarmpy.engine.execs import ExecConfig, Execs
from swarmpy.engine.filters import Filters
from swarmpy.engine.live import LiveContainer
from swarmpy.engine.logs import LogLine, LogOptions
from swarmpy.engine.parts import EngineConfig
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.runtime_errors import NotExecutable
from swarmpy.engine.state import ContainerState, Health, Status
from swarmpy.engine.view import network_id, summary
from swarmpy.engine.volumes import Volume, Volumes
from swarmpy.engine.waiting import WaitResult
from swarmpy.runtime import Streams

__all__ = [
    "ContainerConfig",
    "ContainerRecord",
    "ContainerState",
    "Containers",
    "EndpointConfig",
    "Engine",
    "EngineConfig",
    "Event",
    "EventBus",
    "ExecConfig",
    "Execs",
    "Filters",
    "Health",
    "HealthConfig",
    "HostConfig",
    "IPAMConfig",
    "LiveContainer",
    "LogConfig",
    "LogLine",
    "LogOptions",
    "Mount",
    "NetworkingConfig",
    "NotExecutable",
    "PortBinding",
    "RestartPolicy",
    "Status",
    "Streams",
    "Ulimit",
    "Volume",
    "Volumes",
    "WaitResult",
    "endpoint_id",
    "network_id",
    "summary",
]
