"""Checks that an answer has the shape the Engine API asks for, written out by hand from its definitions.

A shape is a type, a list of one shape, a dict of shapes by field (a name ending in "?" may be absent), `Each(shape)`
for an object with any keys, or `Optional(shape)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CONTAINER", "CONTAINER_SUMMARY", "EVENT", "IMAGE", "IMAGE_SUMMARY", "INFO", "NETWORK", "STATS", "VERSION",
           "VOLUME", "Each", "Optional", "complaints"]  # fmt: skip


@dataclass(frozen=True)
class Each:
    shape: Any


@dataclass(frozen=True)
class Optional:
    """May be null."""

    shape: Any


def complaints(shape: Any, value: Any, path: str = "$") -> list[str]:
    """Where `value` is not of `shape`; empty when it is."""
    if isinstance(shape, Optional):
        return [] if value is None else complaints(shape.shape, value, path)
    if isinstance(shape, Each):
        if not isinstance(value, dict):
            return [f"{path}: an object is wanted, not {value!r}"]
        return [text for key, item in value.items() for text in complaints(shape.shape, item, f"{path}.{key}")]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path}: an array is wanted, not {value!r}"]
        return [text for index, item in enumerate(value) for text in complaints(shape[0], item, f"{path}[{index}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path}: an object is wanted, not {value!r}"]
        out = []
        for name, inner in shape.items():
            key = name.removesuffix("?")
            if key in value:
                out += complaints(inner, value[key], f"{path}.{key}")
            elif not name.endswith("?"):
                out.append(f"{path}.{key} is missing")
        return out
    fine = isinstance(value, shape) and not (shape is int and isinstance(value, bool))
    return [] if fine else [f"{path}: {shape} is wanted, not {value!r}"]


ENDPOINT = {
    "IPAMConfig": Optional(dict), "Links": Optional([str]), "MacAddress": str, "Aliases": Optional([str]),
    "NetworkID": str, "EndpointID": str, "Gateway": str, "IPAddress": str, "IPPrefixLen": int, "IPv6Gateway": str,
    "GlobalIPv6Address": str, "GlobalIPv6PrefixLen": int, "DriverOpts": Optional(dict), "DNSNames": Optional([str]),
}  # fmt: skip
MOUNT = {"Type": str, "Source": str, "Destination": str, "Mode": str, "RW": bool, "Propagation": str, "Name?": str}
CONTAINER = {
    "Id": str, "Created": str, "Path": str, "Args": [str], "Image": str, "ResolvConfPath": str, "HostnamePath": str,
    "HostsPath": str, "LogPath": str, "Name": str, "RestartCount": int, "Driver": str, "Platform": str,
    "MountLabel": str, "ProcessLabel": str, "AppArmorProfile": str, "ExecIDs": Optional([str]), "Mounts": [MOUNT],
    "State": {
        "Status": str, "Running": bool, "Paused": bool, "Restarting": bool, "OOMKilled": bool, "Dead": bool, "Pid": int,
        "ExitCode": int, "Error": str, "StartedAt": str, "FinishedAt": str,
    },
    "Config": {
        "Hostname": str, "Domainname": str, "User": str, "AttachStdin": bool, "AttachStdout": bool,
        "AttachStderr": bool, "Tty": bool, "OpenStdin": bool, "StdinOnce": bool, "Env": [str], "Cmd": Optional([str]),
        "Image": str, "Volumes": Optional(dict), "WorkingDir": str, "Entrypoint": Optional([str]), "Labels": Each(str),
    },
    "HostConfig": {
        "Binds": Optional([str]), "NetworkMode": str, "PortBindings": dict, "AutoRemove": bool, "Memory": int,
        "LogConfig": {"Type": str, "Config": dict}, "RestartPolicy": {"Name": str, "MaximumRetryCount": int},
        "Privileged": bool, "ReadonlyRootfs": bool, "ShmSize": int, "CapAdd": Optional([str]), "NanoCpus": int,
        "MaskedPaths": [str], "ReadonlyPaths": [str], "CgroupnsMode": str, "IpcMode": str, "PidsLimit": Optional(int),
    },
    "NetworkSettings": {
        "SandboxID": str, "SandboxKey": str, "IPAddress": str, "Gateway": str, "Networks": Each(ENDPOINT),
        "Ports": Each(Optional([{"HostIp": str, "HostPort": str}])),
    },
    "GraphDriver": {"Name": str, "Data": Optional(dict)},
}  # fmt: skip
CONTAINER_SUMMARY = {
    "Id": str, "Names": [str], "Image": str, "ImageID": str, "Command": str, "Created": int, "Labels": Each(str),
    "State": str, "Status": str, "HostConfig": {"NetworkMode": str}, "NetworkSettings": {"Networks": Each(ENDPOINT)},
    "Mounts": [MOUNT], "Ports": [{"PrivatePort": int, "Type": str, "IP?": str, "PublicPort?": int}],
}  # fmt: skip
IMAGE_SUMMARY = {
    "Id": str, "ParentId": str, "RepoTags": [str], "RepoDigests": [str], "Created": int, "Size": int, "SharedSize": int,
    "Labels": Optional(Each(str)), "Containers": int,
}  # fmt: skip
IMAGE = {
    "Id": str, "RepoTags": [str], "RepoDigests": [str], "Created": str, "Config": dict, "Architecture": str, "Os": str,
    "Size": int, "RootFS": {"Type": str, "Layers": [str]}, "GraphDriver": {"Name": str}, "Metadata": dict,
}  # fmt: skip
NETWORK = {
    "Name": str, "Id": str, "Created": str, "Scope": str, "Driver": str, "EnableIPv6": bool, "Internal": bool,
    "Attachable": bool, "Ingress": bool, "IPAM": {"Driver": str, "Config": [dict]}, "Options": dict, "Labels": dict,
    "Containers": Each({"Name": str, "EndpointID": str, "MacAddress": str, "IPv4Address": str, "IPv6Address": str}),
}  # fmt: skip
VOLUME = {"Name": str, "Driver": str, "Mountpoint": str, "Labels": Each(str), "Scope": str, "Options": dict,
          "CreatedAt": str}  # fmt: skip
VERSION = {
    "Version": str, "ApiVersion": str, "MinAPIVersion": str, "Os": str, "Arch": str, "KernelVersion": str,
    "GitCommit": str, "GoVersion": str, "BuildTime": str, "Platform": {"Name": str},
    "Components": [{"Name": str, "Version": str, "Details": Each(str)}],
}  # fmt: skip
INFO = {
    "ID": str, "Containers": int, "ContainersRunning": int, "ContainersPaused": int, "ContainersStopped": int,
    "Images": int, "Driver": str, "DockerRootDir": str, "NCPU": int, "MemTotal": int, "Name": str, "ServerVersion": str,
    "OperatingSystem": str, "OSType": str, "Architecture": str, "KernelVersion": str, "CgroupDriver": str,
    "CgroupVersion": str, "Labels": [str], "SecurityOptions": [str], "Warnings": Optional([str]),
    "Plugins": {"Volume": [str], "Network": [str], "Log": [str]}, "RegistryConfig": dict, "Runtimes": dict,
    "Swarm": {"NodeID": str, "NodeAddr": str, "LocalNodeState": str, "ControlAvailable": bool, "Error": str},
}  # fmt: skip
EVENT = {
    "Type": str, "Action": str, "scope": str, "time": int, "timeNano": int,
    "Actor": {"ID": str, "Attributes": Each(str)},
}  # fmt: skip
CPU = {"cpu_usage": {"total_usage": int, "usage_in_usermode": int, "usage_in_kernelmode": int},
       "throttling_data": {"periods": int, "throttled_periods": int, "throttled_time": int}}  # fmt: skip
STATS = {
    "read": str, "preread": str, "id": str, "name": str, "pids_stats": {"current": int}, "num_procs": int,
    "memory_stats": {"usage": int, "limit": int, "stats": Each(int)}, "cpu_stats": CPU, "precpu_stats": CPU,
    "blkio_stats": {"io_service_bytes_recursive": [{"major": int, "minor": int, "op": str, "value": int}]},
    "networks": Each({"rx_bytes": int, "rx_packets": int, "tx_bytes": int, "tx_packets": int}),
}  # fmt: skip
