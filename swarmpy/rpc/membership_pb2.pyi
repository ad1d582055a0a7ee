from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class MemberJoinRequest(_message.Message):
    __slots__ = ("raft_id", "addr")
    RAFT_ID_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    raft_id: int
    addr: str
    def __init__(self, raft_id: _Optional[int] = ..., addr: _Optional[str] = ...) -> None: ...

class MemberJoined(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberLeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberLeft(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
