"""What one host can do: the front of the engine.

Owns    the start and end of everything below it, and what is about the host as a whole.
Source  Docker Engine API, tag System.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from swarmpy import __version__
from swarmpy.engine.containers import Containers
from swarmpy.engine.events import EventBus
from swarmpy.engine.execs import Execs
from swarmpy.engine.facts import available_capabilities
from swarmpy.engine.filters import Filters
from swarmpy.engine.ground import lay_ground
from swarmpy.engine.parts import EngineConfig, Parts
from swarmpy.engine.record import RecordStore, replace_file
from swarmpy.engine.runtime_errors import translated
from swarmpy.engine.state import Status
from swarmpy.engine.stats import samples
from swarmpy.engine.times import format_rfc3339
from swarmpy.engine.top import process_table
from swarmpy.engine.volumes import Volume, Volumes, tree_size
from swarmpy.engine.watch import DirectoryWatcher
from swarmpy.errors import Conflict, NotSupported
from swarmpy.image import DEFAULT_DOMAIN, Image, ImageStore, Progress, RegistryAuth, parse_reference
from swarmpy.network import HostNetwork
from swarmpy.runtime import Runtime, RuntimeFailure

__all__ = ["Engine"]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Engine:
    """Containers, images, volumes, events of this host. Call in one event loop only."""

    def __init__(
        self,
        config: EngineConfig,
        runtime: Runtime,
        images: ImageStore,
        network: HostNetwork,
        *,
        clock: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self.images = images
        self.now = clock
        self.events = EventBus(clock)
        self.started_ns = clock()
        self.version = __version__
        self.architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        self._runtime = runtime
        self._network = network
        self._rng = rng or random.SystemRandom()
        self._parts: Parts | None = None
        self._containers: Containers | None = None
        self._execs: Execs | None = None
        self.id = ""

    @property
    def containers(self) -> Containers:
        """The containers; there are none to speak of before `start`."""
        if self._containers is None:
            raise Conflict("the engine has not been started")
        return self._containers

    @property
    def execs(self) -> Execs:
        """Processes started in running containers."""
        if self._execs is None:
            raise Conflict("the engine has not been started")
        return self._execs

    @property
    def volumes(self) -> Volumes:
        """The volumes of this host."""
        return self.parts.volumes

    @property
    def parts(self) -> Parts:
        """What the pieces of the engine share."""
        if self._parts is None:
            raise Conflict("the engine has not been started")
        return self._parts

    async def start(self) -> None:
        """Containers that run are adopted, those that ended meanwhile recorded, restart policies applied.

        The runtime, the image store and the network must have been started.
        """
        root = self.config.data_root
        volumes = Volumes(root / "volumes", self.now)
        await asyncio.to_thread(volumes.load)
        self.id = await asyncio.to_thread(_engine_id, root / "engine-id")
        await asyncio.to_thread(lay_ground, root / "ground")
        self._parts = Parts(
            config=self.config,
            runtime=self._runtime,
            images=self.images,
            network=self._network,
            events=self.events,
            volumes=volumes,
            records=RecordStore(root / "containers"),
            watcher=DirectoryWatcher(),
            clock=self.now,
            capabilities=await asyncio.to_thread(available_capabilities),
            cpus=os.cpu_count() or 1,
            ground=root / "ground",
        )
        self._containers = Containers(self._parts, self._rng)
        self._execs = Execs(self._parts, self._containers)
        await self._containers.load(await self._runtime.adopt())

    async def close(self) -> None:
        """Nothing of the engine runs in this process afterwards; containers go on."""
        if self._containers is not None:
            await self._containers.close()
        if self._execs is not None:
            await self._execs.close()
        if self._parts is not None:
            self._parts.watcher.close()

    # -- about the host -----------------------------------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """SystemInfo without its section Swarm."""
        states = [record.state.status for record in self.containers.records()]
        running = sum(status in (Status.RUNNING, Status.RESTARTING) for status in states)
        paused = states.count(Status.PAUSED)
        memory, release, cgroups = await asyncio.to_thread(_facts)
        runtimes = {"swarmpy": {"path": "swarmpy"}}
        return {
            "ID": self.id,
            "Containers": len(states),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(states) - running - paused,
            "Images": len(self.images.list()),
            "Driver": "overlay2",
            "DriverStatus": [["Native Overlay Diff", "true"]],
            "DockerRootDir": str(self.config.data_root),
            "Plugins": {
                "Volume": ["local"], "Network": ["bridge", "host", "null", "overlay"], "Authorization": None,
                "Log": ["json-file", "none"],
            },
            "MemoryLimit": True,
            "SwapLimit": True,
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": True,
            "PidsLimit": True,
            "OomKillDisable": False,
            "IPv4Forwarding": True,
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 (a count of names)
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": format_rfc3339(self.now()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": cgroups,
            "NEventsListener": self.events.listeners,
            "KernelVersion": platform.release(),
            "OperatingSystem": release[0],
            "OSVersion": release[1],
            "OSType": "linux",
            "Architecture": platform.machine(),
            "NCPU": self.parts.cpus,
            "MemTotal": memory,
            "IndexServerAddress": f"https://index.{DEFAULT_DOMAIN}/v1/",     # where old clients keep a login
            "RegistryConfig": {
                "IndexConfigs": {
                    DEFAULT_DOMAIN: {"Name": DEFAULT_DOMAIN, "Mirrors": [], "Secure": True, "Official": True},
                },
                "InsecureRegistryCIDRs": ["127.0.0.0/8"],
                "Mirrors": [],
            },
            "GenericResources": None,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": self.config.name,
            "Labels": list(self.config.labels),
            "ExperimentalBuild": False,
            "ServerVersion": self.version,
            "Runtimes": runtimes,
            "DefaultRuntime": "swarmpy",
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "Warnings": None,
        }  # fmt: skip

    def check_platform(self, platform_name: str) -> None:
        """`NotSupported` unless `platform_name` ("linux/amd64") is this host's."""
        system, _, architecture = platform_name.partition("/")
        if system not in ("", "linux") or architecture.partition("/")[0] not in ("", self.architecture):
            raise NotSupported(f"platform '{platform_name}' is not supported; this host is linux/{self.architecture}")

    def bridge_addresses(self) -> tuple[str, str]:
        """Subnet and gateway of the default bridge."""
        return str(self._network.subnet), str(self._network.gateway)

    # -- containers, seen from the host -------------------------------------------------------------------------------

    def inspect_container(self, reference: str) -> dict[str, Any]:
        """ContainerInspectResponse, with the ids of what runs in it."""
        record = self.containers.get(reference)
        return self.containers.inspect(record.id, self.execs.running_in(record.id))

    async def sizes(self, container_id: str) -> dict[str, int]:
        """SizeRw and SizeRootFs in bytes: what the container wrote, and with its image."""
        record = self.containers.get(container_id)
        written = await self.containers.written_bytes(record)
        return {"SizeRw": written, "SizeRootFs": written + self.images.resolve(record.image_id).size_bytes}

    async def top(self, reference: str, arguments: str) -> dict[str, Any]:
        """ContainerTopResponse: what ps(1) says of the container's processes."""
        container = self.containers.live(reference)
        container.publish("top")
        try:
            pids = await container.running_handle().processes()
        except RuntimeFailure as error:
            raise translated(error) from error
        return await process_table(pids, arguments)

    def stats(self, reference: str, *, stream: bool, one_shot: bool) -> AsyncIterator[dict[str, Any]]:
        """ContainerStatsResponse, once or every second until the container is gone."""
        return samples(self.parts, self.containers.live(reference), stream=stream, one_shot=one_shot)

    # -- images and volumes, with their events ------------------------------------------------------------------------

    async def pull(
        self,
        reference: str,
        auth: RegistryAuth | None,
        progress: Callable[[Progress], None],
        platform_name: str | None = None,
    ) -> Image:
        """Fetch an image from its registry."""
        image = await self.images.pull(reference, auth, progress, platform_name)
        pulled = parse_reference(reference)
        self.events.publish("image", "pull", pulled.familiar, {"name": pulled.familiar_name})
        return image

    async def create_volume(self, name: str, *, driver: str, options: dict[str, str], labels: dict[str, str]) -> Volume:
        """The volume of that name; made when it is not there."""
        async with self.volumes.turn:
            is_new = name not in self.volumes
            volume = await asyncio.to_thread(
                self.volumes.create, name, driver=driver, options=options, labels=labels
            )
        if is_new:
            self.events.publish("volume", "create", volume.name, {"driver": "local"})
        return volume

    async def remove_volume(self, name: str, *, force: bool) -> None:
        """`Conflict` while a container has it."""
        async with self.volumes.turn:
            was_there = name in self.volumes
            await asyncio.to_thread(self.volumes.remove, name, self.containers.volumes_in_use(), force=force)
        if was_there:
            self.events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune_volumes(self, filters: Filters) -> tuple[list[str], int]:
        """Names of the volumes removed, and bytes freed."""
        async with self.volumes.turn:
            removed = await asyncio.to_thread(self.volumes.prune, filters, self.containers.volumes_in_use())
        for name in removed[0]:
            self.events.publish("volume", "destroy", name, {"driver": "local"})
        return removed

    async def volume_usage(self) -> list[dict[str, Any]]:
        """Every volume with UsageData."""
        used = self.containers.volumes_in_use()
        out = []
        for volume in self.volumes.matching(Filters(), used):
            size = await asyncio.to_thread(tree_size, volume.mountpoint)
            usage = {"Size": size, "RefCount": len(used.get(volume.name, []))}
            out.append(volume.to_json() | {"UsageData": usage})
        return out


def _engine_id(path: Path) -> str:
    """This engine's identity, made once."""
    if not path.exists():
        raw = secrets.token_hex(16)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])).encode())
    return path.read_text()


def _facts() -> tuple[int, tuple[str, str], str]:
    """Memory in bytes, name and version of the distribution, version of cgroups."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cgroups = "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1"
    return memory, _operating_system(), cgroups


def _operating_system() -> tuple[str, str]:
    """Name and version of the distribution: os-release(5)."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "Linux", ""
    return release.get("PRETTY_NAME", "Linux"), release.get("VERSION_ID", "")
