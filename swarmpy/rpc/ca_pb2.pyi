from swarmpy.rpc import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IssueRequest(_message.Message):
    __slots__ = ("csr", "availability")
    CSR_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    availability: _types_pb2.NodeSpec.Availability
    def __init__(self, csr: _Optional[bytes] = ..., availability: _Optional[_Union[_types_pb2.NodeSpec.Availability, str]] = ...) -> None: ...

class IssueResponse(_message.Message):
    __slots__ = ("node_id", "role", "certificate", "root_ca", "unlock_key", "as_of")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_CA_FIELD_NUMBER: _ClassVar[int]
    UNLOCK_KEY_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    role: _types_pb2.NodeRole
    certificate: bytes
    root_ca: bytes
    unlock_key: str
    as_of: int
    def __init__(self, node_id: _Optional[str] = ..., role: _Optional[_Union[_types_pb2.NodeRole, str]] = ..., certificate: _Optional[bytes] = ..., root_ca: _Optional[bytes] = ..., unlock_key: _Optional[str] = ..., as_of: _Optional[int] = ...) -> None: ...
