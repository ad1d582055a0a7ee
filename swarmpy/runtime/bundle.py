"""An OCI bundle's `config.json`, read once into typed values.

Owns    what a valid configuration is. Everything after this module works on these values and never on raw JSON, except
        `linux.resources` and `linux.seccomp`, which cgroups/ and seccomp/ read with the same rules.
Source  OCI runtime-spec 1.2: config.md, config-linux.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from swarmpy.runtime import capabilities, uapi
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.reader import Fields

__all__ = ["Bundle", "Process", "load_bundle", "parse_bundle", "parse_process", "sysctl_namespace"]

ROOTFS_ANNOTATION = "io.swarmpy.rootfs"


@dataclass(frozen=True, slots=True)
class Rlimit:
    name: str  # RLIMIT_NOFILE
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Process:
    """OCI `process`: what is executed, as whom, and with which privileges."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    umask: int | None
    terminal: bool
    console_size: tuple[int, int] | None  # height, width
    capabilities: capabilities.CapabilitySets
    no_new_privileges: bool
    rlimits: tuple[Rlimit, ...]
    oom_score_adj: int | None
    apparmor_profile: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """The annotation `io.swarmpy.rootfs`: an overlay only this container's mount namespace sees."""

    lower: tuple[str, ...]  # top first
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class Mount:
    destination: str
    kind: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    path: str
    kind: str  # c, u, b or p
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class IdMap:
    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Hook:
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_s: int | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A whole `config.json`. Absent texts are empty."""

    path: str
    root: str
    root_readonly: bool
    overlay: Overlay | None
    hostname: str
    domainname: str
    mounts: tuple[Mount, ...]
    process: Process
    annotations: dict[str, str]
    namespaces: dict[str, str]  # type to the path to join, or "" for a new one
    uid_maps: tuple[IdMap, ...]
    gid_maps: tuple[IdMap, ...]
    devices: tuple[Device, ...]
    cgroups_path: str
    resources: dict[str, object]
    sysctl: dict[str, str]
    seccomp: dict[str, object] | None
    rootfs_propagation: str
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    hooks: dict[str, tuple[Hook, ...]]

    def host_owner(self, process: Process) -> tuple[int, int] | None:
        """The process' user and group as the host numbers them; None when the bundle does not tell."""
        if "user" not in self.namespaces:
            return process.uid, process.gid
        uid, gid = _mapped(self.uid_maps, process.uid), _mapped(self.gid_maps, process.gid)
        return None if uid is None or gid is None else (uid, gid)

    def new_namespaces(self) -> int:
        """The clone(2) flags of the namespaces made for this container."""
        flags = 0
        for kind, path in self.namespaces.items():
            flags |= 0 if path else uapi.NAMESPACE_FLAGS[kind]
        return flags


def _mapped(maps: tuple[IdMap, ...], number: int) -> int | None:
    for entry in maps:
        if entry.container_id <= number < entry.container_id + entry.size:
            return entry.host_id + number - entry.container_id
    return None


HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
PROPAGATIONS = ("", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable")


def load_bundle(path: str, text: bytes | None = None) -> tuple[Bundle, bytes]:
    """Read and check `path`/config.json, or `text` in its place; the text too.

    Raises RuntimeFailure naming the file or the field.
    """
    file = f"{path}/config.json"
    try:
        if text is None:
            with open(file, "rb") as stream:
                text = stream.read()
        value = json.loads(text)
    except OSError as error:
        raise RuntimeFailure(describe(error), FailureKind.INVALID) from None
    except (ValueError, RecursionError) as error:
        raise RuntimeFailure(f"{file} is not valid JSON: {error}", FailureKind.INVALID) from None
    return parse_bundle(value, path), text


def parse_bundle(value: object, path: str) -> Bundle:
    """Check a decoded configuration. `path` is the bundle directory, to which relative paths belong."""
    config = Fields(value, "config.json: ")
    version = config.text("ociVersion")
    if not version.startswith("1."):
        raise RuntimeFailure(f"config.json: ociVersion: 1.x is supported, got {version!r}", FailureKind.INVALID)
    config.required("process")
    linux = config.child("linux")
    namespaces = _namespaces(linux)
    overlay = _overlay(config)
    if overlay is None:
        config.child("root").required("path")
    uid_maps, gid_maps = _id_maps(linux, "uidMappings"), _id_maps(linux, "gidMappings")
    if namespaces.get("user") == "" and not (uid_maps and gid_maps):
        raise RuntimeFailure(
            "config.json: linux.uidMappings and linux.gidMappings: a new user namespace needs both", FailureKind.INVALID
        )
    if linux.has("mountLabel"):
        raise RuntimeFailure("config.json: linux.mountLabel: SELinux labels are not supported", FailureKind.INVALID)
    bundle = Bundle(
        path=path,
        root=_absolute(path, config.child("root").text("path")),
        root_readonly=config.child("root").flag("readonly"),
        overlay=overlay,
        hostname=config.text("hostname"),
        domainname=config.text("domainname"),
        mounts=tuple(_mount(mount, path) for mount in config.objects("mounts")),
        process=parse_process(config.child("process")),
        annotations=config.mapping("annotations"),
        namespaces=namespaces,
        uid_maps=uid_maps,
        gid_maps=gid_maps,
        devices=tuple(_device(device) for device in linux.objects("devices")),
        cgroups_path=_cgroups_path(linux),
        resources=linux.child("resources").value,
        sysctl=linux.mapping("sysctl"),
        seccomp=linux.child("seccomp").value if linux.has("seccomp") else None,
        rootfs_propagation=linux.text("rootfsPropagation"),
        masked_paths=linux.texts("maskedPaths"),
        readonly_paths=linux.texts("readonlyPaths"),
        hooks={kind: tuple(_hook(hook) for hook in config.child("hooks").objects(kind)) for kind in HOOK_KINDS},
    )
    _check(bundle)
    return bundle


def parse_process(fields: Fields) -> Process:
    """Check a `process` object; exec requests carry the same one."""
    user = fields.child("user")
    args = fields.texts("args")
    if not args or not args[0]:
        raise RuntimeFailure(f"{fields.at('args')}: must name a program to run", FailureKind.INVALID)
    cwd = fields.text("cwd", "/")
    if not cwd.startswith("/"):
        raise RuntimeFailure(f"{fields.at('cwd')}: must be an absolute path, got {cwd!r}", FailureKind.INVALID)
    for index, entry in enumerate(env := fields.texts("env")):
        if "=" not in entry:
            raise RuntimeFailure(
                f"{fields.at('env')}[{index}]: expected NAME=value, got {entry!r}", FailureKind.INVALID
            )
    highest_id = (1 << 32) - 2
    return Process(
        args=args,
        env=env,
        cwd=cwd,
        uid=user.integer("uid", low=0, high=highest_id),
        gid=user.integer("gid", low=0, high=highest_id),
        additional_gids=user.integers("additionalGids", low=0, high=highest_id),
        umask=user.optional_integer("umask", low=0, high=0o777),
        terminal=fields.flag("terminal"),
        console_size=_console_size(fields),
        capabilities=capabilities.parse(fields.child("capabilities")),
        no_new_privileges=fields.flag("noNewPrivileges"),
        rlimits=_rlimits(fields),
        oom_score_adj=fields.optional_integer("oomScoreAdj", low=-1000, high=1000),
        apparmor_profile=fields.text("apparmorProfile"),
    )


def _check(bundle: Bundle) -> None:
    """Rules that concern more than one field."""
    if bundle.rootfs_propagation not in PROPAGATIONS:
        raise RuntimeFailure(
            f"config.json: linux.rootfsPropagation: unknown value {bundle.rootfs_propagation!r}", FailureKind.INVALID
        )
    if bundle.namespaces.get("mount") != "":
        raise RuntimeFailure(
            "config.json: linux.namespaces: a container needs a new mount namespace", FailureKind.INVALID
        )
    for field in ("hostname", "domainname"):
        value: str = getattr(bundle, field)
        if value and "uts" not in bundle.namespaces:
            raise RuntimeFailure(f"config.json: {field}: needs a UTS namespace of its own", FailureKind.INVALID)
        if len(value.encode()) > 64:
            raise RuntimeFailure(f"config.json: {field}: is longer than 64 bytes", FailureKind.INVALID)
    for name in bundle.sysctl:
        _check_sysctl(name, bundle.namespaces)


# The sysctls that belong to a namespace, so that writing them does not touch the host (namespaces(7)).
IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def sysctl_namespace(name: str) -> str | None:
    """The type of namespace a sysctl belongs to, which may be written with dots or slashes; None: it is the host's."""
    dotted = name.replace("/", ".")
    if ".." in dotted:
        return None
    if dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if dotted.startswith("net."):
        return "network"
    return "uts" if dotted in ("kernel.domainname", "kernel.hostname") else None


def _check_sysctl(name: str, namespaces: dict[str, str]) -> None:
    owner = sysctl_namespace(name)
    if owner is None:
        raise RuntimeFailure(
            f"config.json: linux.sysctl.{name}: does not belong to any namespace, and would change the host",
            FailureKind.INVALID,
        )
    if owner not in namespaces:
        raise RuntimeFailure(
            f"config.json: linux.sysctl.{name}: needs an own {owner} namespace", FailureKind.INVALID
        )


def _namespaces(linux: Fields) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in linux.objects("namespaces"):
        kind, path = entry.text("type"), entry.text("path")
        if kind not in uapi.NAMESPACE_FLAGS:
            raise RuntimeFailure(f"{entry.at('type')}: unknown namespace type {kind!r}", FailureKind.INVALID)
        if kind in found:
            raise RuntimeFailure(f"{entry.at('type')}: {kind} is given twice", FailureKind.INVALID)
        if path and not path.startswith("/"):
            raise RuntimeFailure(f"{entry.at('path')}: must be an absolute path, got {path!r}", FailureKind.INVALID)
        found[kind] = path
    return found


def _overlay(config: Fields) -> Overlay | None:
    text = config.mapping("annotations").get(ROOTFS_ANNOTATION)
    if text is None:
        return None
    where = f"config.json: annotations[{ROOTFS_ANNOTATION!r}]"
    try:
        fields = Fields(json.loads(text), where)
    except ValueError as error:
        raise RuntimeFailure(f"{where}: is not valid JSON: {error}", FailureKind.INVALID) from None
    overlay = Overlay(fields.texts("lower"), fields.text("upper"), fields.text("work"))
    if not overlay.lower or not overlay.upper or not overlay.work:
        raise RuntimeFailure(f"{where}: needs lower, upper and work", FailureKind.INVALID)
    for path in (*overlay.lower, overlay.upper, overlay.work):
        if not path.startswith("/"):
            raise RuntimeFailure(f"{where}: {path!r} is not an absolute path", FailureKind.INVALID)
    return overlay


def _mount(fields: Fields, bundle: str) -> Mount:
    destination = fields.text("destination")
    if not destination.startswith("/"):
        raise RuntimeFailure(
            f"{fields.at('destination')}: must be an absolute path, got {destination!r}", FailureKind.INVALID
        )
    for name in ("uidMappings", "gidMappings"):
        if fields.items(name):
            raise RuntimeFailure(f"{fields.at(name)}: id-mapped mounts are not supported", FailureKind.INVALID)
    options = fields.texts("options")
    source = fields.text("source")
    if fields.text("type") == "bind" or "bind" in options or "rbind" in options:
        return Mount(destination, "bind", _absolute(bundle, source) if source else "", options)
    return Mount(destination, fields.text("type"), source, options)


def _device(fields: Fields) -> Device:
    kind = fields.text("type")
    if kind not in ("c", "u", "b", "p"):
        raise RuntimeFailure(f"{fields.at('type')}: expected c, u, b or p, got {kind!r}", FailureKind.INVALID)
    path = fields.text("path")
    if not path.startswith("/"):
        raise RuntimeFailure(f"{fields.at('path')}: must be an absolute path, got {path!r}", FailureKind.INVALID)
    return Device(
        path=path,
        kind=kind,
        major=fields.integer("major", low=0, high=(1 << 32) - 1),
        minor=fields.integer("minor", low=0, high=(1 << 32) - 1),
        mode=fields.integer("fileMode", 0o666, low=0) & 0o7777,
        uid=fields.integer("uid", low=0),
        gid=fields.integer("gid", low=0),
    )


def _id_maps(linux: Fields, name: str) -> tuple[IdMap, ...]:
    high = (1 << 32) - 1
    return tuple(
        IdMap(
            entry.integer("containerID", low=0, high=high),
            entry.integer("hostID", low=0, high=high),
            entry.integer("size", low=1, high=high),
        )
        for entry in linux.objects(name)
    )


def _hook(fields: Fields) -> Hook:
    path = fields.text("path")
    if not path.startswith("/"):
        raise RuntimeFailure(f"{fields.at('path')}: must be an absolute path, got {path!r}", FailureKind.INVALID)
    args = fields.texts("args") or (path,)
    return Hook(path, args, fields.texts("env"), fields.optional_integer("timeout", low=1))


def _rlimits(process: Fields) -> tuple[Rlimit, ...]:
    found: dict[str, Rlimit] = {}
    for entry in process.objects("rlimits"):
        name = entry.text("type")
        if not re.fullmatch(r"RLIMIT_[A-Z]+", name):
            raise RuntimeFailure(f"{entry.at('type')}: unknown limit {name!r}", FailureKind.INVALID)
        if name in found:
            raise RuntimeFailure(f"{entry.at('type')}: {name} is given twice", FailureKind.INVALID)
        limit = Rlimit(name, entry.integer("soft", low=0), entry.integer("hard", low=0))
        if limit.soft > limit.hard:
            raise RuntimeFailure(
                f"{entry.path}: {name}: soft {limit.soft} is above hard {limit.hard}", FailureKind.INVALID
            )
        found[name] = limit
    return tuple(found.values())


def _console_size(process: Fields) -> tuple[int, int] | None:
    if not process.has("consoleSize"):
        return None
    size = process.child("consoleSize")
    return size.integer("height", low=0, high=65535), size.integer("width", low=0, high=65535)


def _cgroups_path(linux: Fields) -> str:
    path = linux.text("cgroupsPath")
    if ".." in path.split("/"):
        raise RuntimeFailure(f"{linux.at('cgroupsPath')}: must not contain '..'", FailureKind.INVALID)
    return path


def _absolute(bundle: str, path: str) -> str:
    return path if path.startswith("/") else f"{bundle}/{path}"
