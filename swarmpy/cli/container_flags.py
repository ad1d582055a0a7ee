"""The flags that describe a container, shared by `create` and `run`.

Source  docker create, docker run; Docker Engine API: ContainerConfig, HostConfig.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from swarmpy.cli import values
from swarmpy.cli.flags import Flag, extends, into, merges, sets
from swarmpy.cli.terminal import window_size

__all__ = ["CONTAINER"]

JSON = dict[str, Any]


def environment(items: list[str]) -> list[str]:
    return values.env(items, dict(os.environ))


def publish(body: JSON, items: list[str]) -> None:
    """`[[IP:]PORT:]PORT[/PROTOCOL]`."""
    bindings = into(body, "HostConfig", "PortBindings")
    for item in items:
        numbers, _, protocol = item.partition("/")
        outer, _, inner = numbers.rpartition(":")
        address, _, port = outer.rpartition(":")
        if not inner.isdigit():
            raise ValueError(f"--publish: {item!r}: {inner!r} is not a port from 1 to 65535")
        name = f"{inner}/{protocol or 'tcp'}"
        bindings.setdefault(name, []).append({"HostIp": address, "HostPort": port})
        into(body, "ExposedPorts")[name] = {}


def restart(body: JSON, text: str) -> None:
    """`no`, `always`, `unless-stopped` or `on-failure[:N]`."""
    policy, _, attempts = text.partition(":")
    if attempts and not attempts.isdigit():
        raise ValueError(f"--restart: {text!r}: {attempts!r} is not a number of restarts")
    into(body, "HostConfig")["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": int(attempts or 0)}


def entrypoint(body: JSON, text: str) -> None:
    """An empty one takes the image's away."""
    body["Entrypoint"] = [text]


def terminal(body: JSON, on: bool) -> None:
    body["Tty"] = on
    if on:
        into(body, "HostConfig")["ConsoleSize"] = list(window_size())


def size(flag: str) -> Callable[[str], int]:
    return lambda text: values.size_bytes(flag, text)


CONTAINER: tuple[Flag, ...] = (
    Flag("interactive", bool, "Keep its input open", sets("OpenStdin"), "i"),
    Flag("tty", bool, "With a terminal", terminal, "t"),
    Flag("env", list[str], "Environment variable", extends("Env", as_=environment), "e"),
    Flag("volume", list[str], "SOURCE:TARGET[:ro]", extends("HostConfig", "Binds"), "v"),
    Flag("mount", list[str], "Mount, type=…,source=…,target=…",
         extends("HostConfig", "Mounts", as_=lambda items: [values.mount(item) for item in items])),
    Flag("publish", list[str], "[[IP:]PORT:]PORT[/PROTOCOL]", publish, "p"),
    Flag("label", list[str], "Label, NAME=VALUE", merges("label", "Labels"), "l"),
    Flag("network", str, "bridge, host, none or container:NAME", sets("HostConfig", "NetworkMode")),
    Flag("memory", str, "Memory at most", sets("HostConfig", "Memory", as_=size("memory")), "m"),
    Flag("cpus", str, "CPUs at most",
         sets("HostConfig", "NanoCpus", as_=lambda text: values.nano_cpus("cpus", text))),
    Flag("pids-limit", int, "Processes at most", sets("HostConfig", "PidsLimit")),
    Flag("restart", str, "no, always, unless-stopped or on-failure[:N]", restart),
    Flag("workdir", str, "Working directory", sets("WorkingDir"), "w"),
    Flag("user", str, "User and group", sets("User"), "u"),
    Flag("hostname", str, "Host name", sets("Hostname")),
    Flag("entrypoint", str, "Replaces the image's entrypoint", entrypoint),
    Flag("read-only", bool, "The root file system cannot be written", sets("HostConfig", "ReadonlyRootfs")),
    Flag("privileged", bool, "With every capability", sets("HostConfig", "Privileged")),
    Flag("cap-add", list[str], "Add a capability", extends("HostConfig", "CapAdd")),
    Flag("cap-drop", list[str], "Take a capability away", extends("HostConfig", "CapDrop")),
    Flag("log-driver", str, "Log driver", sets("HostConfig", "LogConfig", "Type")),
    Flag("log-opt", list[str], "Option of the log driver", merges("log-opt", "HostConfig", "LogConfig", "Config")),
    Flag("stop-signal", str, "Signal that stops it", sets("StopSignal")),
    Flag("rm", bool, "Remove the container when it ends", sets("HostConfig", "AutoRemove")),
)
