"""How a command ends other than well."""

from __future__ import annotations

__all__ = ["FLAG_ERROR", "ApiError", "Unreachable", "Usage", "WrongFlag"]

FLAG_ERROR = 125  # docker's exit code for an option that is wrong; for a wrong command or argument it is 1


class ApiError(Exception):
    """The daemon refused; the text is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """No daemon answers at the address."""


class Usage(Exception):
    """What was typed cannot be meant; `exit_code` is the process's."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class WrongFlag(ValueError):
    """An option does not take the value that was given; the text names the option and quotes the value."""
