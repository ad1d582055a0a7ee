from swarmpy.rpc import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromAgent(_message.Message):
    __slots__ = ("hello", "heartbeat", "report", "mesh_applied", "description", "leaving")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    MESH_APPLIED_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    report: StatusReport
    mesh_applied: MeshApplied
    description: _types_pb2.NodeDescription
    leaving: Leaving
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., report: _Optional[_Union[StatusReport, _Mapping]] = ..., mesh_applied: _Optional[_Union[MeshApplied, _Mapping]] = ..., description: _Optional[_Union[_types_pb2.NodeDescription, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("description", "advertise_addr", "tasks")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_ADDR_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    description: _types_pb2.NodeDescription
    advertise_addr: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStatusUpdate]
    def __init__(self, description: _Optional[_Union[_types_pb2.NodeDescription, _Mapping]] = ..., advertise_addr: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskStatusUpdate, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leaving(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TaskStatusUpdate(_message.Message):
    __slots__ = ("task_id", "status")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    status: _types_pb2.TaskStatus
    def __init__(self, task_id: _Optional[str] = ..., status: _Optional[_Union[_types_pb2.TaskStatus, _Mapping]] = ...) -> None: ...

class StatusReport(_message.Message):
    __slots__ = ("sequence", "updates")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    updates: _containers.RepeatedCompositeFieldContainer[TaskStatusUpdate]
    def __init__(self, sequence: _Optional[int] = ..., updates: _Optional[_Iterable[_Union[TaskStatusUpdate, _Mapping]]] = ...) -> None: ...

class MeshApplied(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class ToAgent(_message.Message):
    __slots__ = ("welcome", "assignments", "mesh", "stored", "node", "managers", "logs")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assignments: Assignments
    mesh: MeshUpdate
    stored: ReportStored
    node: NodeState
    managers: Managers
    logs: LogSubscription
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assignments: _Optional[_Union[Assignments, _Mapping]] = ..., mesh: _Optional[_Union[MeshUpdate, _Mapping]] = ..., stored: _Optional[_Union[ReportStored, _Mapping]] = ..., node: _Optional[_Union[NodeState, _Mapping]] = ..., managers: _Optional[_Union[Managers, _Mapping]] = ..., logs: _Optional[_Union[LogSubscription, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "node_id", "heartbeat_period_ns")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    node_id: str
    heartbeat_period_ns: int
    def __init__(self, session_id: _Optional[str] = ..., node_id: _Optional[str] = ..., heartbeat_period_ns: _Optional[int] = ...) -> None: ...

class Assignments(_message.Message):
    __slots__ = ("complete", "templates", "tasks", "removed_tasks", "removed_templates", "more")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TASKS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    templates: _containers.RepeatedCompositeFieldContainer[_types_pb2.TaskTemplate]
    tasks: _containers.RepeatedCompositeFieldContainer[_types_pb2.Task]
    removed_tasks: _containers.RepeatedScalarFieldContainer[str]
    removed_templates: _containers.RepeatedScalarFieldContainer[str]
    more: bool
    def __init__(self, complete: _Optional[bool] = ..., templates: _Optional[_Iterable[_Union[_types_pb2.TaskTemplate, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[_types_pb2.Task, _Mapping]]] = ..., removed_tasks: _Optional[_Iterable[str]] = ..., removed_templates: _Optional[_Iterable[str]] = ..., more: _Optional[bool] = ...) -> None: ...

class MeshUpdate(_message.Message):
    __slots__ = ("complete", "version", "nodes", "removed_nodes", "services", "removed_services", "tasks", "removed_tasks", "ingress", "data_path_port", "more")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_NODES_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_SERVICES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TASKS_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_PORT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    version: int
    nodes: _containers.RepeatedCompositeFieldContainer[MeshNode]
    removed_nodes: _containers.RepeatedScalarFieldContainer[str]
    services: _containers.RepeatedCompositeFieldContainer[MeshService]
    removed_services: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedCompositeFieldContainer[MeshTask]
    removed_tasks: _containers.RepeatedScalarFieldContainer[str]
    ingress: _types_pb2.Network
    data_path_port: int
    more: bool
    def __init__(self, complete: _Optional[bool] = ..., version: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[MeshNode, _Mapping]]] = ..., removed_nodes: _Optional[_Iterable[str]] = ..., services: _Optional[_Iterable[_Union[MeshService, _Mapping]]] = ..., removed_services: _Optional[_Iterable[str]] = ..., tasks: _Optional[_Iterable[_Union[MeshTask, _Mapping]]] = ..., removed_tasks: _Optional[_Iterable[str]] = ..., ingress: _Optional[_Union[_types_pb2.Network, _Mapping]] = ..., data_path_port: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...

class MeshNode(_message.Message):
    __slots__ = ("id", "addr", "ingress_address")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    INGRESS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    addr: str
    ingress_address: str
    def __init__(self, id: _Optional[str] = ..., addr: _Optional[str] = ..., ingress_address: _Optional[str] = ...) -> None: ...

class MeshService(_message.Message):
    __slots__ = ("id", "ports")
    ID_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.PortConfig]
    def __init__(self, id: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[_types_pb2.PortConfig, _Mapping]]] = ...) -> None: ...

class MeshTask(_message.Message):
    __slots__ = ("id", "service_id", "node_id", "address")
    ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    service_id: str
    node_id: str
    address: str
    def __init__(self, id: _Optional[str] = ..., service_id: _Optional[str] = ..., node_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class ReportStored(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("node", "root_ca_pem", "as_of")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROOT_CA_PEM_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    node: _types_pb2.Node
    root_ca_pem: str
    as_of: int
    def __init__(self, node: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., root_ca_pem: _Optional[str] = ..., as_of: _Optional[int] = ...) -> None: ...

class Managers(_message.Message):
    __slots__ = ("addrs",)
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    addrs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addrs: _Optional[_Iterable[str]] = ...) -> None: ...

class LogSubscription(_message.Message):
    __slots__ = ("id", "close", "task_ids", "follow", "stdout", "stderr", "since_ns", "tail")
    ID_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    id: str
    close: bool
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    follow: bool
    stdout: bool
    stderr: bool
    since_ns: int
    tail: int
    def __init__(self, id: _Optional[str] = ..., close: _Optional[bool] = ..., task_ids: _Optional[_Iterable[str]] = ..., follow: _Optional[bool] = ..., stdout: _Optional[bool] = ..., stderr: _Optional[bool] = ..., since_ns: _Optional[int] = ..., tail: _Optional[int] = ...) -> None: ...
