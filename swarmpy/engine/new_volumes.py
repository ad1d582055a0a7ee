"""The volumes of a container that is being made: made, filled, and kept from removal until the container has them.

Laws    A volume that a creation under way wants is in use. Of two containers that are first to use a volume one fills
        it, and the other waits. A creation that fails leaves no anonymous volume.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from swarmpy.engine.parts import Parts
from swarmpy.engine.record import VolumeMount
from swarmpy.engine.rootfs import mounted_overlay, open_in_root
from swarmpy.engine.volumes import Volume, copy_tree

__all__ = ["NewVolumes"]


class NewVolumes:
    """Volumes by the id of the container they are wanted for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._wanted: dict[str, set[str]] = {}
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def wanted(self) -> Mapping[str, set[str]]:
        """Names of volumes by the containers that are being made."""
        return self._wanted

    async def make(
        self,
        container_id: str,
        mounts: Sequence[VolumeMount],
        layers: Sequence[Path],
    ) -> tuple[VolumeMount, ...]:
        """`mounts` with their volumes, which exist. An empty one gets what the image has at its place.

        `settle` or `abandon` is owed.
        """
        wanted = self._wanted[container_id] = set()
        out = []
        async with self._parts.volumes.turn:
            for mount in mounts:
                if mount.type == "volume":
                    volume = await self._make(mount.name, mount.labels)
                    wanted.add(volume.name)
                    mount = replace(mount, name=volume.name, source=str(volume.mountpoint))
                out.append(mount)
        for mount in out:
            if mount.type == "volume" and not mount.no_copy:
                async with self._filling_of(mount.name):
                    await asyncio.to_thread(_fill, layers, mount.target, Path(mount.source))
        return tuple(out)

    async def _make(self, name: str, labels: Mapping[str, str]) -> Volume:
        is_new = name not in self._parts.volumes
        volume = await asyncio.to_thread(self._parts.volumes.create, name, labels=labels)
        if is_new:
            self._parts.events.publish("volume", "create", volume.name, {"driver": "local"})
        return volume

    def _filling_of(self, name: str) -> asyncio.Lock:
        lock = self._filling.get(name) or asyncio.Lock()
        self._filling[name] = lock
        return lock

    def settle(self, container_id: str) -> None:
        """From now on the volumes are in use by the container itself."""
        self._wanted.pop(container_id, None)

    async def abandon(self, container_id: str) -> None:
        """There will be no container; what was made for it alone goes."""
        volumes = self._parts.volumes
        async with volumes.turn:
            for name in self._wanted.pop(container_id, set()):
                if name in volumes and volumes.get(name).anonymous and not self._wants(name):
                    await asyncio.to_thread(volumes.remove, name, {})
                    self._parts.events.publish("volume", "destroy", name, {"driver": "local"})

    def _wants(self, name: str) -> bool:
        return any(name in wanted for wanted in self._wanted.values())


def _fill(layers: Sequence[Path], target: str, volume: Path) -> None:
    """Copy the image's directory at `target`, if it has one, into the volume, if that is empty."""
    if any(volume.iterdir()):
        return
    with mounted_overlay(layers) as root:
        try:
            descriptor = open_in_root(root, target, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            copy_tree(Path(f"/proc/self/fd/{descriptor}"), volume)
        finally:
            os.close(descriptor)
