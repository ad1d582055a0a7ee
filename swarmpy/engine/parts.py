"""What the pieces of the engine share: the rooms below it, its files and its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from swarmpy.engine.events import EventBus
from swarmpy.engine.record import RecordStore
from swarmpy.engine.volumes import Volumes
from swarmpy.engine.watch import DirectoryWatcher
from swarmpy.image import Image, ImageStore, RootFS
from swarmpy.network import HostNetwork
from swarmpy.runtime import Runtime

__all__ = ["EngineConfig", "Parts"]


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one daemon. `data_root` is its own: `containers/`, `volumes/` and `ground/` lie there."""

    data_root: Path
    name: str
    """The host's name, as `docker info` shows it."""
    labels: tuple[str, ...] = field(default=())
    """"key=value", the engine labels that placement constraints see."""


@dataclass(frozen=True)
class Parts:
    """Everything a container's life touches."""

    config: EngineConfig
    runtime: Runtime
    images: ImageStore
    network: HostNetwork
    events: EventBus
    volumes: Volumes
    records: RecordStore
    watcher: DirectoryWatcher
    clock: Callable[[], int]
    capabilities: tuple[str, ...]
    cpus: int
    ground: Path
    """See `lay_ground`."""

    async def root_fs(self, image: Image, container_id: str) -> RootFS:
        """The container's layers, made if it has none yet. Raises as `ImageStore.prepare` does."""
        root = await self.images.prepare(image, container_id)
        return replace(root, lower=(*root.lower, self.ground))
