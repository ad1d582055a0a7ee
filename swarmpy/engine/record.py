"""Containers on disk: what was asked, and what was last observed.

Owns    `<data>/containers/<id>/`: `config.json` (identity and what the user asked) and `state.jsonl` (what was
        observed: a line each time, of which the last whole one counts). The first is replaced whole (write, fsync,
        rename, fsync of the directory), so a crash leaves the old or the new one. The second changes several times in a
        short life, and to make a file anew each time costs a file system far more than a line and its fdatasync.
Law     Each of creation, start, end and removal waits for the disk once. So the first of each file is written in its
        place and not beside it: one that a loss of power has cut off is of something that nobody was told of.
        A directory without a whole `config.json` is a creation that never finished, or a removal; it is removed at
        load. One without a whole line in `state.jsonl` is of a container that has only been created.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmpy.engine.config import ContainerConfig, HostConfig, NetworkingConfig
from swarmpy.engine.schema import read, write
from swarmpy.engine.state import ContainerState, Health, HealthResult, Status
from swarmpy.errors import SwarmpyError

__all__ = ["ContainerRecord", "Endpoint", "Loaded", "RecordStore", "VolumeMount", "replace_file"]

_STATES = "state.jsonl"
_STATES_LIMIT = 64 << 10        # bytes; then it begins anew


@dataclass(frozen=True)
class VolumeMount:
    """A volume or bind that the container has, resolved at creation. `name` is empty for a bind."""

    type: str
    source: str
    target: str
    read_only: bool = False
    name: str = ""
    mode: str = ""
    propagation: str = ""
    anonymous: bool = False
    no_copy: bool = False
    subpath: str = ""
    recursive: bool = True
    read_only_below: bool = True
    """A read-only bind makes what is mounted below its source read-only too."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of a volume, when it is made for this container."""


@dataclass(frozen=True)
class Endpoint:
    """What the container holds on one network while it runs. Addresses carry their prefix length apart."""

    network: str
    ip: str = ""
    prefix: int = 0
    gateway: str = ""
    mac: str = ""


@dataclass(frozen=True)
class ContainerRecord:
    """One container. A record is a value: the current one is `Containers.get`, and a change makes a new one."""

    id: str
    name: str
    created_ns: int
    image_id: str
    """Digest of the image's configuration, "sha256:…"."""
    image_name: str
    """The reference the user gave."""
    config: ContainerConfig
    """Merged with the image's configuration: `cmd`, `entrypoint`, `env`, `volumes` and so on are what will run."""
    host: HostConfig
    networking: NetworkingConfig
    mounts: tuple[VolumeMount, ...] = ()
    state: ContainerState = field(default_factory=ContainerState)
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[tuple[str, str, str], ...] = ()
    """Published: ("80/tcp", host address, host port)."""

    @property
    def labels(self) -> dict[str, str]:
        """The user's labels."""
        return dict(self.config.labels)


@dataclass(frozen=True)
class Loaded:
    """What was on disk. A container whose files cannot be read (a newer version wrote them) is left as it is."""

    records: tuple[ContainerRecord, ...]
    unreadable: Mapping[str, str]
    """Why, by container id."""


class RecordStore:
    """The containers' directories. Methods touch the disk: call them off the event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, container_id: str) -> Path:
        """Where everything about one container lies."""
        return self.root / container_id

    def create(self, record: ContainerRecord) -> None:
        """Make the directory of a container that has only been created; afterwards it survives a crash."""
        directory = self.directory(record.id)
        directory.mkdir(mode=0o710, parents=True)
        _write_synced(directory / "config.json", _asked(record), os.O_CREAT | os.O_EXCL)
        _sync_directory(directory)
        _sync_directory(self.root)

    def save_config(self, record: ContainerRecord) -> None:
        """Persist what was asked, when that has changed."""
        replace_file(self.directory(record.id) / "config.json", _asked(record))

    def save_state(self, record: ContainerRecord) -> None:
        """Persist what was observed."""
        state = dataclasses.asdict(record.state) | {"status": record.state.status.value}
        observed = {
            "state": state, "endpoints": [dataclasses.asdict(item) for item in record.endpoints],
            "ports": [list(item) for item in record.ports],
        }
        path = self.directory(record.id) / _STATES
        line = f"\n{json.dumps(observed)}\n".encode()     # apart from a line before it that did not get on disk whole
        try:
            grown = path.stat().st_size + len(line)
        except FileNotFoundError:
            grown = 0
        if not grown:
            _write_synced(path, line, os.O_CREAT | os.O_APPEND)
            _sync_directory(path.parent)
        elif grown <= _STATES_LIMIT:
            _write_synced(path, line, os.O_APPEND)
        else:
            replace_file(path, line)

    def forget(self, container_id: str, *, durably: bool = True) -> None:
        """A crash does not bring the container back, nor does a loss of power if `durably`. `remove` is owed."""
        directory = self.directory(container_id)
        (directory / "config.json").unlink(missing_ok=True)
        if durably and directory.exists():
            _sync_directory(directory)

    def remove(self, container_id: str) -> None:
        """Nothing of a container that is forgotten is left in the store."""
        directory = self.directory(container_id)
        if directory.exists():
            shutil.rmtree(directory)

    def load(self) -> Loaded:
        """Every container that was completely created; what is left of others is removed."""
        self.root.mkdir(mode=0o710, parents=True, exist_ok=True)
        records, unreadable = [], {}
        for directory in sorted(self.root.iterdir()):
            if not _is_whole(directory):
                shutil.rmtree(directory)
                continue
            try:
                records.append(_load(directory))
            except (OSError, ValueError, KeyError, TypeError, SwarmpyError) as error:
                unreadable[directory.name] = f"{type(error).__name__}: {error}"
        return Loaded(tuple(records), unreadable)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` so that a crash leaves either the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.new")
    _write_synced(temporary, data, os.O_CREAT | os.O_TRUNC, mode)
    temporary.replace(path)
    _sync_directory(path.parent)


def _write_synced(path: Path, data: bytes, flags: int, mode: int = 0o600) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(directory: Path) -> ContainerRecord:
    asked: dict[str, Any] = json.loads((directory / "config.json").read_bytes())
    record = ContainerRecord(
        id=asked["id"], name=asked["name"], created_ns=asked["created_ns"], image_id=asked["image_id"],
        image_name=asked["image_name"], config=read(ContainerConfig, asked["config"]),
        host=read(HostConfig, asked["host"]), networking=read(NetworkingConfig, asked["networking"]),
        mounts=tuple(VolumeMount(**mount) for mount in asked["mounts"]),
    )
    observed = _last(_states(directory))
    return record if observed is None else _with_observed(record, observed)


def _asked(record: ContainerRecord) -> bytes:
    asked = {
        "id": record.id, "name": record.name, "created_ns": record.created_ns, "image_id": record.image_id,
        "image_name": record.image_name, "config": write(record.config), "host": write(record.host),
        "networking": write(record.networking), "mounts": [dataclasses.asdict(mount) for mount in record.mounts],
    }
    return json.dumps(asked).encode()


def _is_whole(directory: Path) -> bool:
    """Whether the creation came to its end, as far as can be told: a damaged container that ran once is not removed."""
    try:
        json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return bool(_states(directory))
    return True


def _states(directory: Path) -> bytes:
    """Empty when no line got on disk whole: of the first, its end is missing, or has its place but not its bytes."""
    try:
        lines = (directory / _STATES).read_bytes()
    except FileNotFoundError:
        return b""
    return lines if lines.rstrip(b"\0").count(b"\n") >= 2 else b""


def _last(lines: bytes) -> dict[str, Any] | None:
    """The last line that got on disk whole; None when there are no lines. Raises ValueError when none can be read."""
    for line in reversed(lines.splitlines()):
        try:
            observed: dict[str, Any] = json.loads(line)
        except ValueError:
            continue        # empty, or cut off when the power or the space ended: nobody was told of that state
        return observed
    if lines:
        raise ValueError(f"{_STATES} has no whole line")
    return None


def _with_observed(record: ContainerRecord, observed: dict[str, Any]) -> ContainerRecord:
    state = observed["state"]
    health = state.pop("health")
    if health is not None:
        health = Health(
            health["status"], health["failing_streak"], tuple(HealthResult(**probe) for probe in health["log"])
        )
    state["status"] = Status(state["status"])
    return replace(
        record,
        state=ContainerState(**state, health=health),
        endpoints=tuple(Endpoint(**item) for item in observed["endpoints"]),
        ports=tuple((p, ip, host) for p, ip, host in observed["ports"]),
    )
