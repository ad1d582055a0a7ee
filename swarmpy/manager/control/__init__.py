"""What the API may ask of a swarm: validation and transactions.

Owns    the checks every spec passes before it enters the store, and the forwarding of requests to the leader.
In      requests of proto/control.proto.
Out     one store transaction for each, or a SwarmpyError that names the field.
Source  Docker Engine API: Services, Nodes, Swarm.
"""

from swarmpy.manager.control.cluster import NewSecrets
from swarmpy.manager.control.control import Control, LeaderControl
from swarmpy.manager.control.errors import LEADER_METADATA, abort, received
from swarmpy.manager.control.servicer import ControlServicer
from swarmpy.manager.control.services import CheckRunnable

__all__ = [
    "LEADER_METADATA",
    "CheckRunnable",
    "Control",
    "ControlServicer",
    "LeaderControl",
    "NewSecrets",
    "abort",
    "received",
]
