"""All containers of this host: created, found, listed, and handed the operations of a user.

Owns    names and ids, which are unique, and the set of live containers. What happens to one container is in `live.py`.
Source  Docker Engine API, paths under /containers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from swarmpy.engine import view
from swarmpy.engine.bundles import log_path
from swarmpy.engine.checks import check_resources, check_restart_policy
from swarmpy.engine.clearing import Clearing
from swarmpy.engine.config import ContainerConfig, HostConfig, NetworkingConfig
from swarmpy.engine.creation import Creator
from swarmpy.engine.filters import Filters
from swarmpy.engine.listing import select
from swarmpy.engine.live import LiveContainer
from swarmpy.engine.logs import LogLine, LogOptions, follow
from swarmpy.engine.names import check_name, pick_name
from swarmpy.engine.parts import Parts
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.resources import host_device_number, oci_resources
from swarmpy.engine.restart import after_daemon_start
from swarmpy.engine.state import Status
from swarmpy.engine.volumes import tree_size
from swarmpy.engine.waiting import WaitResult
from swarmpy.errors import Conflict, InvalidArgument, NotFound, NotSupported, SwarmpyError
from swarmpy.runtime import Container

__all__ = ["Containers"]

log = logging.getLogger(__name__)


class Containers:
    """The containers of one engine."""

    def __init__(self, parts: Parts, rng: random.Random) -> None:
        self._parts = parts
        self._rng = rng
        self._live: dict[str, LiveContainer] = {}
        self._names: dict[str, str] = {}
        self._closing = False
        self._creator = Creator(parts, self.get)
        self._clearing = Clearing(parts.records)

    # -- adoption -----------------------------------------------------------------------------------------------------

    async def load(self, running: Sequence[Container]) -> None:
        """Take over what is on disk and what runs, then start what its restart policy brings back.

        A process nobody was told of (its start never finished) is ended. One that ended while no daemon ran is handled
        exactly as if it ended now. A container whose files cannot be read is left alone, running or not.
        """
        loaded = await asyncio.to_thread(self._parts.records.load)
        for container_id, reason in loaded.unreadable.items():
            log.error("container %s cannot be read and is left alone: %s", container_id, reason)
        known = {*loaded.unreadable, *(record.id for record in loaded.records)}
        for stray in self._parts.images.prepared() - known:  # of a creation or removal that was cut short
            await self._parts.images.release(stray)
        handles = {handle.id: handle for handle in running if handle.id not in loaded.unreadable}
        for record in loaded.records:
            self._names[record.name] = record.id
            self._live[record.id] = self._container(record)
        for container in list(self._live.values()):
            handle = handles.pop(container.record.id, None)
            await self._adopt(container, handle)
        for handle in handles.values():
            log.warning("container %s is running and unknown; it is ended", handle.id)
            await self._orphan(handle)
        adopted = [container.record.id for container in self._live.values() if container.handle is not None]
        await self._parts.network.repair([*adopted, *loaded.unreadable])
        for container in list(self._live.values()):
            await self._bring_back(container)

    async def _adopt(self, container: LiveContainer, handle: Container | None) -> None:
        status = container.state.status
        if handle is not None and status in (Status.RUNNING, Status.PAUSED):
            container.adopt(handle)
            return
        if handle is not None:
            await container.discard(handle)
        await container.lost()
        if status is Status.REMOVING:
            await container.save(state=replace(container.state, status=Status.DEAD))
            await self.remove(container.record.id, force=True)

    async def _orphan(self, handle: Container) -> None:
        stranger = ContainerRecord(
            handle.id, "", 0, "", "", ContainerConfig(), HostConfig(network_mode="bridge"), NetworkingConfig()
        )
        await self._container(stranger).discard(handle)

    async def _bring_back(self, container: LiveContainer) -> None:
        if container.handle is not None or container.removed:
            return
        state, host = container.state, container.record.host
        if state.status is Status.RESTARTING:
            container.resume_restarting()
        elif after_daemon_start(host.restart_policy, state):
            try:
                await container.start()
            except SwarmpyError as error:
                log.error("container %s could not be started again: %s", container.display, error)
        elif host.auto_remove and state.status is Status.EXITED:
            await self.remove(container.record.id, volumes=True)

    async def close(self) -> None:
        """The daemon ends; containers go on running."""
        self._closing = True
        await asyncio.gather(*(container.close() for container in self._live.values()))
        await self._clearing.over()

    # -- finding ------------------------------------------------------------------------------------------------------

    def live(self, reference: str) -> LiveContainer:
        """By id, by name, or by a prefix of the id that only one has; `NotFound` and `InvalidArgument` else."""
        bare = reference.removeprefix("/")
        container_id = bare if bare in self._live else self._names.get(bare)
        if container_id is None:
            found = [known for known in self._live if bare and known.startswith(bare)]
            if len(found) > 1:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
            container_id = found[0] if found else None
        if container_id is None:
            raise NotFound(f"No such container: {reference}")
        return self._live[container_id]

    def get(self, reference: str) -> ContainerRecord:
        """The record as it is now; see `live` for what `reference` may be."""
        return self.live(reference).record

    def records(self) -> list[ContainerRecord]:
        """Every container's record."""
        return [container.record for container in self._live.values()]

    def inspect(self, reference: str, exec_ids: Sequence[str] = ()) -> dict[str, Any]:
        """ContainerInspectResponse."""
        record = self.get(reference)
        return view.inspect(record, self._parts.records.directory(record.id), exec_ids, log_path(self._parts, record))

    def volumes_in_use(self) -> dict[str, list[str]]:
        """Ids of the containers that have each volume, or will once they are made."""
        used: dict[str, list[str]] = {}
        for container_id, names in self._creator.volumes_wanted().items():
            for name in names:
                used.setdefault(name, []).append(container_id)
        for record in self.records():
            for mount in record.mounts:
                if mount.name:
                    used.setdefault(mount.name, []).append(record.id)
        return used

    def images_running(self) -> set[str]:
        """Digests of images that a running container was made from."""
        return {record.image_id for record in self.records() if record.state.running}

    def images_in_use(self) -> set[str]:
        """Digests of images that a container was made from."""
        return {record.image_id for record in self.records()}

    # -- creation and removal -----------------------------------------------------------------------------------------

    async def create(
        self,
        config: ContainerConfig,
        host: HostConfig,
        networking: NetworkingConfig | None = None,
        name: str | None = None,
    ) -> str:
        """The id of a new container that does not run yet.

        `NotFound` when there is no such image and for nothing else, `Conflict` when the name is in use,
        `InvalidArgument` and `NotSupported` for what cannot be.
        """
        container_id = self._new_id()
        chosen = self._claim_name(name, container_id)
        try:
            record = await self._creator.record(container_id, chosen, config, host, networking or NetworkingConfig())
            await asyncio.to_thread(self._parts.records.create, record)
        except BaseException:
            del self._names[chosen]
            await self._creator.abandon(container_id)
            raise
        container = self._container(record)
        self._live[container_id] = container
        self._creator.settle(container_id)
        container.publish("create")
        return container_id

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """The container is gone; with `volumes` its anonymous volumes too. `Conflict` when it runs, unless `force`."""
        container = self.live(reference)
        await container.remove(force=force)
        record = container.record
        if self._live.pop(record.id, None) is not None:
            self._clearing.begin(record.id)
        if self._names.get(record.name) == record.id:
            del self._names[record.name]
        if volumes:
            await self._remove_anonymous(record)

    async def _remove_anonymous(self, record: ContainerRecord) -> None:
        volumes = self._parts.volumes
        if not any(mount.anonymous for mount in record.mounts):
            return
        async with volumes.turn:
            used = self.volumes_in_use()
            for mount in record.mounts:
                if mount.anonymous and mount.name not in used and mount.name in volumes:
                    await asyncio.to_thread(volumes.remove, mount.name, {})
                    self._parts.events.publish("volume", "destroy", mount.name, {"driver": "local"})

    async def prune(self, filters: Filters, until_ns: int | None) -> tuple[list[str], int]:
        """Remove every container that has ended or never ran: their ids, and the bytes freed."""
        unwanted = filters.get("label!")
        removed: list[str] = []
        freed = 0
        for record in self.records():
            if record.state.running or record.state.status is Status.REMOVING:
                continue
            if until_ns is not None and record.created_ns >= until_ns:
                continue
            if not filters.labels_match("label", record.config.labels):
                continue
            if unwanted and Filters({"label": unwanted}).labels_match("label", record.config.labels):
                continue
            freed += await self.written_bytes(record)
            await self.remove(record.id)
            removed.append(record.id)
        return removed, freed

    async def written_bytes(self, record: ContainerRecord) -> int:
        """What the container wrote into its root file system."""
        root = await self._parts.root_fs(self._parts.images.resolve(record.image_id), record.id)
        return await asyncio.to_thread(tree_size, Path(root.upper))

    # -- operations on one --------------------------------------------------------------------------------------------

    async def start(self, reference: str) -> bool:
        """False when it ran already."""
        return await self.live(reference).start()

    async def stop(self, reference: str, timeout_s: float | None = None, signal: str | None = None) -> bool:
        """False when it did not run."""
        return await self.live(reference).stop(timeout_s, signal)

    async def restart(self, reference: str, timeout_s: float | None = None, signal: str | None = None) -> None:
        """Stop it if it runs, then start it."""
        await self.live(reference).restart(timeout_s, signal)

    async def kill(self, reference: str, signal: str = "SIGKILL") -> None:
        """Send a signal to its first process."""
        await self.live(reference).kill(signal)

    async def pause(self, reference: str) -> None:
        """Freeze it."""
        await self.live(reference).pause()

    async def unpause(self, reference: str) -> None:
        """Thaw it."""
        await self.live(reference).unpause()

    async def wait(self, reference: str, condition: str = "not-running") -> WaitResult:
        """How it ended; `condition` is "not-running", "next-exit" or "removed"."""
        return await self.live(reference).wait(condition)

    async def rename(self, reference: str, name: str) -> None:
        """`Conflict` when the name is in use."""
        container = self.live(reference)
        old = container.record.name
        if check_name(name) == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        new = self._claim_name(name, container.record.id)
        try:
            await container.save_asked(name=new)
        except BaseException:
            del self._names[new]
            raise
        del self._names[old]
        container.publish("rename", oldName=f"/{old}")

    async def update(self, reference: str, changes: Mapping[str, Any]) -> None:
        """`POST /containers/{id}/update`: set the fields of HostConfig in `changes`, by their attribute names."""
        container = self.live(reference)
        host = replace(container.record.host, **changes)
        check_resources(host, self._parts.cpus)
        check_restart_policy(host)
        resources = await asyncio.to_thread(oci_resources, host, host_device_number)
        await container.change(host, resources)

    async def resize(self, reference: str, height: int, width: int) -> None:
        """Set its terminal's size; `Conflict` unless it runs."""
        await self.live(reference).resize(height, width)

    async def logs(self, reference: str, options: LogOptions) -> AsyncIterator[LogLine]:
        """What it wrote, in order; with `follow` until it has ended."""
        async with aclosing(self.log_batches(reference, options)) as batches:
            async for batch in batches:
                for line in batch:
                    yield line

    def log_batches(self, reference: str, options: LogOptions) -> AsyncGenerator[list[LogLine]]:
        """As `logs`, many lines at a time. `NotSupported`, at once, when the container keeps no log."""
        container = self.live(reference)
        path = log_path(self._parts, container.record)
        if path is None:
            raise NotSupported(f"container {container.display}: configured logging driver does not support reading")
        return self._batches(container, path, options)

    async def _batches(
        self, container: LiveContainer, path: Path, options: LogOptions
    ) -> AsyncGenerator[list[LogLine]]:
        with self._parts.watcher.watching(path.parent) as written:

            async def changed() -> None:
                ended, waiter = container.wait("not-running"), asyncio.ensure_future(written.wait())
                waiting: list[asyncio.Future[Any]] = [waiter, ended]
                try:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for future in waiting:
                        future.cancel()
                written.clear()

            batches = follow(path, options, changed, lambda: not container.state.running)
            async with aclosing(batches):
                async for batch in batches:
                    yield batch

    # -- inside -------------------------------------------------------------------------------------------------------

    def _container(self, record: ContainerRecord) -> LiveContainer:
        return LiveContainer(self._parts, record, self._joined, self._remove_itself)

    async def _remove_itself(self, container_id: str) -> None:
        if container_id in self._live and not self._closing:
            try:
                await self.remove(container_id, volumes=True)
            except SwarmpyError as error:
                log.error("container %s with --rm could not be removed: %s", container_id, error)

    def _joined(self, record: ContainerRecord) -> dict[str, str]:
        """Namespace paths of the containers whose namespaces `record` shares."""
        out = {}
        host = record.host
        modes = (("network", "net", host.network_mode), ("pid", "pid", host.pid_mode), ("ipc", "ipc", host.ipc_mode))
        for kind, file, mode in modes:
            if mode.startswith("container:"):
                owner = self.live(mode.removeprefix("container:"))
                if owner.handle is None:
                    raise Conflict(f"cannot join {kind} of a non running container: {owner.record.id}")
                out[kind] = f"/proc/{owner.handle.pid}/ns/{file}"
        return out

    def _new_id(self) -> str:
        while True:
            container_id = secrets.token_hex(32)
            if not container_id[:12].isdigit() and container_id not in self._live:
                return container_id

    def _claim_name(self, name: str | None, container_id: str) -> str:
        """Reserve the name at once, so that of two creations that come together one is refused."""
        chosen = check_name(name) if name else pick_name(self._rng, self._names.__contains__)
        if chosen in self._names:
            raise Conflict(
                f'Conflict. The container name "/{chosen}" is already in use by container "{self._names[chosen]}". You '
                "have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[chosen] = container_id
        return chosen

    def list(
        self, filters: Filters | None = None, *, all: bool = True, limit: int | None = None
    ) -> list[ContainerRecord]:
        """Matching containers, the newest first."""

        def image_ids(name: str) -> set[str]:
            try:
                return {self._parts.images.resolve(name).id}
            except SwarmpyError:
                return set()

        return select(
            self.records(), filters or Filters(), show_all=all, limit=limit, find=self.get, image_ids=image_ids
        )
