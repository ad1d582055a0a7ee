"""The container runtime: OCI bundles in, running containers out.

`Runtime` and what it hands out are the door for the rest of swarmpy, and are loaded when they are asked for: launcher
and shims import this package too, and need none of asyncio.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarmpy.runtime.client import Container, ContainerIO, Exec, ExecProcess, Runtime, Streams
    from swarmpy.runtime.failure import FailureKind, RuntimeFailure
    from swarmpy.runtime.state import ExitStatus

__all__ = [
    "Container",
    "ContainerIO",
    "Exec",
    "ExecProcess",
    "ExitStatus",
    "FailureKind",
    "Runtime",
    "RuntimeFailure",
    "Streams",
]

_HOMES = {"FailureKind": "failure", "RuntimeFailure": "failure", "ExitStatus": "state"}


def __getattr__(name: str) -> object:
    """PEP 562: the door's names, from the modules that own them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'client')}"), name)
