"""What the runtime says, in the engine's error kinds."""

from __future__ import annotations

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound, SwarmpyError
from swarmpy.runtime import FailureKind, RuntimeFailure

__all__ = ["NotExecutable", "start_failure", "translated"]


_CLIENT_WORDS = {
    126: ("permission denied",),
    127: ("executable file not found in $PATH", "no such file or directory"),
}


class NotExecutable(InvalidArgument):
    """The user's command cannot be executed; `exit_code` is what a shell would report, 126 or 127.

    The docker client tells the two apart by words of the text, which must be in it.
    """

    def __init__(self, text: str, exit_code: int) -> None:
        words = _CLIENT_WORDS[exit_code]
        super().__init__(text if any(word in text for word in words) else f"{text}: {words[0]}")
        self.exit_code = exit_code


def translated(error: RuntimeFailure) -> SwarmpyError:
    """The engine's error for a failure of the runtime."""
    if error.exit_code is not None:
        return NotExecutable(str(error), error.exit_code)
    kinds: dict[FailureKind, type[SwarmpyError]] = {
        FailureKind.INVALID: InvalidArgument,
        FailureKind.NOT_FOUND: NotFound,
        FailureKind.CONFLICT: Conflict,
    }
    return kinds.get(error.kind, Internal)(str(error))


def start_failure(error: SwarmpyError | OSError) -> tuple[int, SwarmpyError]:
    """The exit code to record for a start that failed (128 when the command is not to blame), and what to raise."""
    if isinstance(error, NotExecutable):
        return error.exit_code, error
    if isinstance(error, SwarmpyError):
        return 128, error
    return 128, Internal(f"the container could not be started: {error}")
