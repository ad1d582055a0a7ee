"""What must be done to a new mount namespace, as values.

Owns    the order in which a container's file system is built. `build_plan` looks at nothing but its arguments, so it is
        tested anywhere; `rootfs.py` carries the steps out.
Laws    Whatever belongs to the host (layers, volumes, devices, cgroup directories) is a `Source`: the shim opens it
        while it still sees the host, as a detached mount. All other steps are done inside the new namespace by
        descriptors below the new root, so that no symbolic link of an image leads out of it.
Source  OCI config-linux.md, "Default Filesystems", "Default Devices"; runtime-linux.md, "Dev symbolic links".
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

from swarmpy.runtime import uapi
from swarmpy.runtime.bundle import Bundle, Device, Mount, Overlay
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.mount_options import MountOptions, parse_options

__all__ = ["Plan", "Source", "Step", "build_plan"]


@dataclass(frozen=True, slots=True)
class TreeSource:
    """A copy of an existing mount tree of the host."""

    path: str
    recursive: bool


@dataclass(frozen=True, slots=True)
class OverlaySource:
    overlay: Overlay
    options: tuple[tuple[str, str | None], ...]


Source = TreeSource | OverlaySource


@dataclass(frozen=True, slots=True)
class AttachRoot:
    """Put the root file system somewhere, so that things can be mounted in it. Source 0 is always the root."""


@dataclass(frozen=True, slots=True)
class AttachSource:
    source: int  # index into Plan.sources
    target: str
    options: MountOptions


@dataclass(frozen=True, slots=True)
class NewMount:
    kind: str
    source: str
    target: str
    options: MountOptions


@dataclass(frozen=True, slots=True)
class MakeDevice:
    device: Device


@dataclass(frozen=True, slots=True)
class MakeLink:
    target: str
    path: str
    replace: bool


@dataclass(frozen=True, slots=True)
class MountConsole:
    """Make a terminal of the container's own devpts, and show its slave as /dev/console."""


@dataclass(frozen=True, slots=True)
class MaskPath:
    path: str


@dataclass(frozen=True, slots=True)
class MakeReadonly:
    path: str


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SetHostname:
    hostname: str
    domainname: str


@dataclass(frozen=True, slots=True)
class FinishRoot:
    """pivot_root, then the propagation and the read-only flag of the root itself."""

    propagation: tuple[tuple[int, bool], ...]
    readonly: bool


Step = (
    AttachRoot
    | AttachSource
    | NewMount
    | MakeDevice
    | MakeLink
    | MountConsole
    | MaskPath
    | MakeReadonly
    | WriteSysctl
    | SetHostname
    | FinishRoot
)


@dataclass(frozen=True, slots=True)
class Plan:
    sources: tuple[Source, ...]
    steps: tuple[Step, ...]


DEFAULT_DEVICES = tuple(
    Device(f"/dev/{name}", "c", major, minor, 0o666, 0, 0)
    for name, major, minor in (
        ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
    )
)  # fmt: skip

DEFAULT_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)


def build_plan(bundle: Bundle, cgroup_directories: Mapping[str, str], links: Mapping[str, str]) -> Plan:
    """The plan for `bundle`. `cgroup_directories` maps what is shown under a mount of type cgroup ("memory", or "" when
    there is one unified hierarchy) to the container's directory on the host; `links` adds names ("cpu" for
    "cpu,cpuacct").
    """
    sources: list[Source] = [_root_source(bundle)]
    steps: list[Step] = [AttachRoot()]
    if bundle.hostname or bundle.domainname:
        steps.append(SetHostname(bundle.hostname, bundle.domainname))
    steps += [WriteSysctl(name, value) for name, value in bundle.sysctl.items()]
    for mount in bundle.mounts:
        if mount.kind == "bind":
            steps.append(_bind(mount, sources))
        elif mount.kind in ("cgroup", "cgroup2"):
            steps += _cgroup_tree(mount, cgroup_directories, links, sources)
        else:
            steps.append(NewMount(mount.kind, mount.source, mount.destination, parse_options(mount.options)))
    steps += _devices(bundle, sources)
    if bundle.process.terminal:
        steps.append(MountConsole())
    steps += [MaskPath(path) for path in bundle.masked_paths]
    steps += [MakeReadonly(path) for path in bundle.readonly_paths]
    steps.append(FinishRoot(_root_propagation(bundle), bundle.root_readonly))
    return Plan(tuple(sources), tuple(steps))


def _root_source(bundle: Bundle) -> Source:
    if bundle.overlay is None:
        return TreeSource(bundle.root, recursive=True)
    options: list[tuple[str, str | None]] = []
    if "user" in bundle.namespaces:
        options.append(("userxattr", None))  # trusted.* attributes cannot be written in a user namespace
    return OverlaySource(bundle.overlay, tuple(options))


def _bind(mount: Mount, sources: list[Source]) -> AttachSource:
    if not mount.source:
        raise RuntimeFailure(
            f"config.json: mounts: bind mount on {mount.destination} has no source", FailureKind.INVALID
        )
    options = parse_options(mount.options)
    sources.append(TreeSource(mount.source, options.recursive_bind))
    return AttachSource(len(sources) - 1, mount.destination, options)


def _cgroup_tree(
    mount: Mount, directories: Mapping[str, str], links: Mapping[str, str], sources: list[Source]
) -> list[Step]:
    """The container's own cgroups, and no others. A bind mount of one shows as `/` inside its cgroup namespace."""
    options = parse_options(mount.options)
    bare = MountOptions(options.add, options.remove, 0, 0, options.propagation, False, ())
    if "" in directories:
        sources.append(TreeSource(directories[""], recursive=False))
        return [AttachSource(len(sources) - 1, mount.destination, bare)]
    writable = MountOptions(bare.add & ~uapi.MOUNT_ATTR_RDONLY, 0, 0, 0, (), False, (("mode", "755"),))
    steps: list[Step] = [NewMount("tmpfs", "tmpfs", mount.destination, writable)]
    for name, directory in directories.items():
        sources.append(TreeSource(directory, recursive=False))
        steps.append(AttachSource(len(sources) - 1, f"{mount.destination}/{name}", bare))
    steps += [MakeLink(target, f"{mount.destination}/{name}", replace=False) for name, target in links.items()]
    if bare.add & uapi.MOUNT_ATTR_RDONLY:
        steps.append(MakeReadonly(mount.destination))
    return steps


def _devices(bundle: Bundle, sources: list[Source]) -> list[Step]:
    """Nodes in /dev, unless /dev as a whole is the host's. A user namespace cannot make nodes: it gets the host's."""
    if any(mount.kind == "bind" and mount.destination.rstrip("/") == "/dev" for mount in bundle.mounts):
        return []
    own = {device.path for device in bundle.devices}
    wanted = [device for device in DEFAULT_DEVICES if device.path not in own] + list(bundle.devices)
    steps: list[Step] = []
    for device in wanted:
        if "user" in bundle.namespaces and device.kind != "p":
            sources.append(TreeSource(device.path, recursive=False))
            steps.append(AttachSource(len(sources) - 1, device.path, parse_options(())))
        else:
            steps.append(MakeDevice(device))
    steps += [MakeLink(target, path, replace=False) for target, path in DEFAULT_LINKS]
    if any(mount.kind == "devpts" and mount.destination == "/dev/pts" for mount in bundle.mounts):
        steps.append(MakeLink("pts/ptmx", "/dev/ptmx", replace=True))
    return steps


def _root_propagation(bundle: Bundle) -> tuple[tuple[int, bool], ...]:
    word = bundle.rootfs_propagation
    return parse_options((word,)).propagation if word else ()


def device_mode(device: Device) -> int:
    """The type and permission bits for mknod(2)."""
    kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    return kinds[device.kind] | device.mode
