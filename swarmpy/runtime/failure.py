"""What can go wrong in the runtime, said in one sentence that names the container.

Owns    the two exceptions of this room. `KernelError` is one refused system call; `RuntimeFailure` is what callers of
        the room see. A kernel error becomes a failure where the container's id is known, never later.
"""

from __future__ import annotations

import errno
import os
from enum import Enum

__all__ = ["FailureKind", "KernelError", "RuntimeFailure"]


class FailureKind(Enum):
    """By whose fault it failed, so that a caller can choose its own error without reading the text."""

    INVALID = "invalid"  # the bundle or the request can never work
    NOT_FOUND = "not-found"  # no such container or process, or the executable does not exist
    CONFLICT = "conflict"  # the id is taken, or the container's state does not allow it
    LOST = "lost"  # the shim is gone, and the container with it
    SYSTEM = "system"  # the kernel or this host refused


class RuntimeFailure(Exception):
    """One clear sentence, starting with the object it is about.

    `exit_code` is set when the user's program could not be executed: 127 not found, 126 found but not executable,
    as shells and `docker run` report it.
    """

    def __init__(self, message: str, kind: FailureKind = FailureKind.SYSTEM, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code

    def to_json(self) -> dict[str, object]:
        return {"error": str(self), "kind": self.kind.value, "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> RuntimeFailure:
        code = value.get("exit_code")
        return cls(str(value["error"]), FailureKind(value["kind"]), code if isinstance(code, int) else None)


class KernelError(OSError):
    """A system call that failed: which, on what, and the name of the errno.

    `detail` is what the kernel itself had to say about it, as fsconfig(2) does in its log.
    """

    def __init__(self, number: int, call: str, *arguments: object, detail: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.call = call
        self.arguments = arguments
        self.detail = detail

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        shown = " ".join(str(argument) for argument in self.arguments if argument != "")
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.call} {shown}: {name} ({self.strerror}{detail})"


def describe(error: OSError) -> str:
    """An OSError of Python's own calls, in the same form as KernelError's."""
    if isinstance(error, KernelError):
        return str(error)
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    path = f"{error.filename}: " if error.filename is not None else ""
    return f"{path}{name} ({error.strerror})"
