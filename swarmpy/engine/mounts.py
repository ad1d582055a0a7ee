"""Mounts of a container: what `Binds`, `Mounts`, `Volumes` and `Tmpfs` ask for, and the OCI mounts they become.

Owns    reading of the bind syntax, the mounts every container has, and their order (a parent before what lies in it).
        Pure, but for the volumes' names and paths that are passed in.
Source  OCI runtime-spec, "config.md", Mounts; Docker Engine API, HostConfig.Binds, Mount.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swarmpy.engine.config import BindOptions, ContainerConfig, HostConfig, Mount, TmpfsOptions, VolumeOptions
from swarmpy.engine.record import VolumeMount
from swarmpy.engine.volumes import check_driver, check_name
from swarmpy.errors import InvalidArgument, NotSupported, naming

__all__ = ["INIT_TARGET", "all_mounts", "parse_binds", "parse_mounts", "tmpfs_mounts", "wanted_mounts"]

INIT_TARGET = "/sbin/docker-init"
"""Where a container with `--init` sees its first process."""
_PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_DEFAULT_SHM_BYTES = 64 << 20
_OTHER_TYPES = ("cluster", "image", "npipe")


def wanted_mounts(
    config: ContainerConfig, host: HostConfig, inherited: Sequence[VolumeMount] = ()
) -> tuple[VolumeMount, ...]:
    """Every bind and volume a new container asks for, one for each target.

    Anonymous volumes have an empty `name` and `source`; the caller makes them. `inherited` (`--volumes-from`) yields to
    what is asked for directly, and the image's volumes yield to both.
    """
    chosen: dict[str, VolumeMount] = {mount.target: mount for mount in inherited}
    direct: set[str] = set()
    with naming("HostConfig.Binds"):
        binds = parse_binds(host.binds)
    with naming("HostConfig.Mounts"):
        mounts = parse_mounts(host.mounts)
    for mount in (*binds, *mounts):
        if mount.target in direct:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        direct.add(mount.target)
        if mount.type != "tmpfs":
            chosen[mount.target] = mount
    covered = set(chosen) | {_clean(target) for target in host.tmpfs} | direct
    for target in config.volumes or ():
        path = _clean(target)
        if path not in covered:
            chosen[path] = VolumeMount("volume", "", path, anonymous=True)
    return tuple(chosen.values())


def parse_binds(binds: Sequence[str]) -> tuple[VolumeMount, ...]:
    """`HostConfig.Binds`: "source:target[:modes]", where a source that is no path names a volume."""
    return tuple(_parse_bind(text) for text in binds)


def _parse_bind(text: str) -> VolumeMount:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts[:2]):
        raise InvalidArgument(f"invalid volume specification: '{text}'; write SOURCE:TARGET[:MODE]")
    if len(parts) == 1:
        return VolumeMount("volume", "", _clean(parts[0]), anonymous=True)
    source, target = parts[0], _clean(parts[1])
    modes = [mode for mode in (parts[2] if len(parts) == 3 else "").split(",") if mode]
    propagation, read_only, no_copy = "", False, False
    for mode in modes:
        if mode in _PROPAGATION:
            propagation = mode
        elif mode in ("ro", "rw"):
            read_only = mode == "ro"
        elif mode == "nocopy":
            no_copy = True
        elif mode not in ("z", "Z", "cached", "delegated", "consistent"):
            raise InvalidArgument(f"invalid mode '{mode}' in the volume specification '{text}'")
    kind = "bind" if source.startswith("/") else "volume"
    if kind == "volume":
        check_name(source)
    if kind == "volume" and propagation:
        raise InvalidArgument(f"'{text}': propagation '{propagation}' is for a path of the host, not for a volume")
    return VolumeMount(
        kind,
        posixpath.normpath(source) if kind == "bind" else "",
        target,
        read_only=read_only,
        name="" if kind == "bind" else source,
        mode=",".join(modes),
        propagation=propagation or ("rprivate" if kind == "bind" else ""),
        no_copy=no_copy,
    )


def parse_mounts(mounts: Sequence[Mount]) -> tuple[VolumeMount, ...]:
    """`HostConfig.Mounts`. `InvalidArgument` and `NotSupported` in the words of Docker."""
    found = []
    for mount in mounts:
        if mount.type not in _PARSERS:
            if mount.type in _OTHER_TYPES:
                raise NotSupported(f"mounts of type '{mount.type}' are not supported; use bind, volume or tmpfs")
            raise InvalidArgument(f"mount type unknown: '{mount.type}'; use bind, volume or tmpfs")
        with naming(f'invalid mount config for type "{mount.type}"'):
            _check_options(mount)
            found.append(_PARSERS[mount.type](mount, _clean(mount.target, "Target")))
    return tuple(found)


def _check_options(mount: Mount) -> None:
    """Options of one type say nothing about a mount of another."""
    for kind, options in (("bind", mount.bind), ("volume", mount.volume), ("tmpfs", mount.tmpfs)):
        if options is not None and kind != mount.type and options != type(options)():
            raise InvalidArgument(f"{kind.capitalize()}Options must not be specified")


def _bind_mount(mount: Mount, target: str) -> VolumeMount:
    options = mount.bind or BindOptions()
    if not mount.source.startswith("/"):
        raise InvalidArgument(f"source '{mount.source}' of a bind must be an absolute path")
    if options.propagation and options.propagation not in _PROPAGATION:
        raise InvalidArgument(f"invalid propagation '{options.propagation}'; use {', '.join(sorted(_PROPAGATION))}")
    if options.read_only_force_recursive and not mount.read_only:
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs ReadOnly")
    if options.read_only_force_recursive and (options.non_recursive or options.read_only_non_recursive):
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive contradicts NonRecursive and ReadOnlyNonRecursive")
    return VolumeMount(
        "bind", posixpath.normpath(mount.source), target, read_only=mount.read_only,
        propagation=options.propagation or "rprivate", recursive=not options.non_recursive,
        read_only_below=not options.read_only_non_recursive, mode="create" if options.create_mountpoint else "exists",
    )  # fmt: skip


def _volume_mount(mount: Mount, target: str) -> VolumeMount:
    options = mount.volume or VolumeOptions()
    if options.driver_config is not None:
        check_driver(options.driver_config.name, options.driver_config.options)
    if mount.source:
        check_name(mount.source)
    if options.subpath.startswith("/") or ".." in options.subpath.split("/"):
        raise InvalidArgument(f"VolumeOptions.Subpath '{options.subpath}' must be a relative path without '..'")
    return VolumeMount(
        "volume", "", target, read_only=mount.read_only, name=mount.source, anonymous=not mount.source,
        no_copy=options.no_copy, subpath=options.subpath, labels=options.labels,
    )  # fmt: skip


def _tmpfs_mount(mount: Mount, target: str) -> VolumeMount:
    """Only its place: what a tmpfs is like is said by `tmpfs_mounts`."""
    if mount.source:
        raise InvalidArgument("a tmpfs has no source")
    options = mount.tmpfs or TmpfsOptions()
    if options.size_bytes < 0 or not 0 <= options.mode <= 0o7777:
        raise InvalidArgument("TmpfsOptions: SizeBytes must not be negative, and Mode be from 0 to 07777")
    return VolumeMount("tmpfs", "", target, read_only=mount.read_only)


_PARSERS: Mapping[str, Callable[[Mount, str], VolumeMount]] = {
    "bind": _bind_mount, "volume": _volume_mount, "tmpfs": _tmpfs_mount,
}  # fmt: skip


def _clean(target: str, where: str = "volume target") -> str:
    if not target.startswith("/"):
        raise InvalidArgument(f"{where} '{target}' must be an absolute path")
    path = posixpath.normpath(target)
    path = "/" + path.lstrip("/")
    if path == "/":
        raise InvalidArgument(f"{where}: destination can't be '/'")
    return path


def user_mounts(mounts: Sequence[VolumeMount], source_of: Callable[[VolumeMount], str]) -> list[dict[str, Any]]:
    """OCI mounts of binds and volumes; `source_of` gives a mount's path on the host."""
    out = []
    for mount in mounts:
        options = ["rbind" if mount.recursive else "bind", mount.propagation or "rprivate"]
        if mount.read_only:
            options.append("rro" if mount.recursive and mount.read_only_below else "ro")
        out.append({"destination": mount.target, "type": "bind", "source": source_of(mount), "options": options})
    return out


def tmpfs_mounts(host: HostConfig) -> list[dict[str, Any]]:
    """OCI mounts of `HostConfig.Tmpfs` and of tmpfs `Mounts`."""
    base = ["noexec", "nosuid", "nodev"]
    out = []
    for target, text in host.tmpfs.items():
        options = [*base, *filter(None, text.split(","))]
        for positive in ("exec", "suid", "dev"):
            if positive in options and f"no{positive}" in options:
                options.remove(f"no{positive}")
        out.append({"destination": _clean(target), "type": "tmpfs", "source": "tmpfs", "options": options})
    for mount in host.mounts:
        if mount.type == "tmpfs":
            wanted = mount.tmpfs or TmpfsOptions()
            options = [*base, *(["ro"] if mount.read_only else [])]
            options += [f"size={wanted.size_bytes}"] if wanted.size_bytes else []
            options += [f"mode={wanted.mode:o}"] if wanted.mode else []
            out.append({"destination": _clean(mount.target), "type": "tmpfs", "source": "tmpfs", "options": options})
    return out


def all_mounts(
    host: HostConfig, mounts: Sequence[VolumeMount], files: Sequence[tuple[str, Path]], *,
    source_of: Callable[[VolumeMount], str], shared_memory: str = "", init: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every OCI mount of a container, in order: what is below another comes after it.

    `files` (target, path on the host) are the container's own /etc/hosts and the like, which a volume at /etc does not
    hide. `source_of` gives a mount's path on the host, `shared_memory` a /dev/shm to share, `init` the first process of
    a container with `--init`. A place that the user names is the user's.
    """
    chosen = [*tmpfs_mounts(host), *user_mounts(mounts, source_of)]
    taken = {mount["destination"] for mount in chosen}
    own = [_file_mount(target, path, host.readonly_rootfs) for target, path in files if target not in taken]
    default = [mount for mount in default_mounts(host, shared_memory) if not _is_replaced(mount["destination"], taken)]
    ordered = sorted((*own, *chosen), key=lambda mount: mount["destination"].count("/"))
    return [*default, *ordered, *([_init_mount(init)] if init else [])]


def _is_replaced(destination: str, taken: set[str]) -> bool:
    return destination in taken or ("/dev" in taken and destination.startswith("/dev/"))


def _file_mount(target: str, path: Path, read_only: bool) -> dict[str, Any]:
    return _mount(target, "bind", str(path), "rbind", "rprivate", *(["ro"] if read_only else []))


def default_mounts(host: HostConfig, shared_memory: str = "") -> list[dict[str, Any]]:
    """What every container sees besides its root: /proc, /dev, /sys."""
    write = "rw" if host.privileged else "ro"
    shm = host.shm_size or _DEFAULT_SHM_BYTES
    out = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=620", "gid=5"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", write),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", write),
    ]
    out.append(_mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))  # of the IPC namespace it is in
    if shared_memory:
        out.append(_mount("/dev/shm", "bind", shared_memory, "rbind", "rprivate"))
    elif host.ipc_mode != "none":
        out.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm}"))
    return out


def _init_mount(program: Path) -> dict[str, Any]:
    """The first process of a container with `--init`, which it cannot change."""
    return _mount(INIT_TARGET, "bind", str(program), "bind", "rprivate", "ro", "nosuid", "nodev")


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}
