"""What this host knows that a container's bundle needs: devices, capabilities, and who `User` is.

Owns    the look-ups. They touch the disk: call them off the event loop. `spec.py` does the rest without looking.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from swarmpy.engine.config import DeviceMapping, HostConfig
from swarmpy.engine.privileges import ALL_CAPABILITIES
from swarmpy.engine.rootfs import mounted_overlay, read_text, running_root
from swarmpy.engine.users import Identity, resolve_user
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = [
    "available_capabilities", "host_devices", "identity_in_layers", "identity_in_process", "init_program",
    "resolv_conf_of_host",
]  # fmt: skip

_INIT_PROGRAMS = ("docker-init", "tini-static")  # one program: tini, linked statically, as no image has its libraries
_NOT_DEVICES = frozenset({"pts", "shm", "fd", "mqueue", ".udev", ".lxc", ".lxd-mounts", "console"})


def available_capabilities() -> tuple[str, ...]:
    """What this process may give to others: its bounding set (proc(5), CapBnd)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return tuple(name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1)
    return ALL_CAPABILITIES


def init_program() -> Path:
    """The program for `--init`, which forwards signals and reaps; `NotSupported` when this host has none."""
    found = next(filter(None, map(shutil.which, _INIT_PROGRAMS)), None)
    if found is None:
        raise NotSupported("HostConfig.Init: this host has no program for it; install the package tini")
    return Path(found).resolve()


def host_devices(host: HostConfig) -> list[dict[str, Any]]:
    """OCI devices (with `access`) that the container gets besides the common ones; `InvalidArgument` for none such."""
    if host.privileged:
        return [_device(path, path, "rwm") for path in _walk("/dev")]
    out = []
    for mapping in host.devices:
        out += list(_mapped(mapping))
    return out


def _mapped(mapping: DeviceMapping) -> Iterator[dict[str, Any]]:
    source = mapping.path_on_host
    target = mapping.path_in_container or source
    access = mapping.cgroup_permissions or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidArgument(f"HostConfig.Devices: permissions '{access}' of {source} are not of r, w, m")
    if Path(source).is_dir():
        for path in _walk(source):
            yield _device(path, target + path[len(source.rstrip("/")) :], access)
    else:
        yield _device(source, target, access)


def _walk(root: str) -> Iterator[str]:
    for entry in sorted(os.scandir(root), key=lambda item: item.name):
        if entry.name in _NOT_DEVICES or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _walk(entry.path)
        else:
            mode = entry.stat().st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield entry.path


def _device(source: str, target: str, access: str) -> dict[str, Any]:
    try:
        status = Path(source).stat()
    except OSError as error:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": {error.strerror}'
        ) from error
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        raise InvalidArgument(f'"{source}" is not a device node')
    return {
        "path": target, "type": "b" if stat.S_ISBLK(status.st_mode) else "c", "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev), "fileMode": stat.S_IMODE(status.st_mode), "uid": status.st_uid,
        "gid": status.st_gid, "access": access,
    }  # fmt: skip


def identity_in_layers(upper: Path, image: Sequence[Path], user: str, groups: Sequence[str]) -> Identity:
    """Who `user` is in the root file system of a container that does not run: `upper` over the layers of its image."""
    with os.scandir(upper) as written:
        if next(written, None) is None:
            return _identity_in_image(tuple(image), user, tuple(groups))
    return _identity_in((upper, *image), user, groups)


@lru_cache(maxsize=256)
def _identity_in_image(layers: tuple[Path, ...], user: str, groups: tuple[str, ...]) -> Identity:
    """Layers of images never change: what a container sees that has written nothing yet is looked up once."""
    return _identity_in(layers, user, groups)


def _identity_in(layers: Sequence[Path], user: str, groups: Sequence[str]) -> Identity:
    with mounted_overlay(layers) as root:
        return resolve_user(user, read_text(root, "/etc/passwd"), read_text(root, "/etc/group"), groups)


def identity_in_process(pid: int, user: str, groups: Sequence[str]) -> Identity:
    """Who `user` is in the running container whose init is `pid`."""
    with running_root(pid) as root:
        return resolve_user(user, read_text(root, "/etc/passwd"), read_text(root, "/etc/group"), groups)


def resolv_conf_of_host() -> str:
    """The host's resolv.conf; the one behind systemd-resolved's stub where there is one, for containers to use."""
    for path in (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")):
        if path == Path("/run/systemd/resolve/resolv.conf") and "127.0.0.53" not in _text(Path("/etc/resolv.conf")):
            continue
        if path.exists():
            return _text(path)
    return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
