"""Making the record of a new container: what the user asked, merged, checked, and with the volumes it needs.

Source  Docker Engine API, `POST /containers/create`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swarmpy.engine.bundles import shown_hostname
from swarmpy.engine.checks import check_container
from swarmpy.engine.config import ContainerConfig, EndpointConfig, HostConfig, LogConfig, NetworkingConfig
from swarmpy.engine.endpoints import wanted_ports
from swarmpy.engine.facts import init_program
from swarmpy.engine.image_config import merge
from swarmpy.engine.mounts import wanted_mounts
from swarmpy.engine.new_volumes import NewVolumes
from swarmpy.engine.parts import Parts
from swarmpy.engine.record import ContainerRecord, VolumeMount
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.image import Image

__all__ = ["Creator"]

_DEFAULT_SHM_BYTES = 64 << 20


class Creator:
    """Makes records. `find` gives the record of another container, by name or id."""

    def __init__(self, parts: Parts, find: Callable[[str], ContainerRecord]) -> None:
        self._parts = parts
        self._find = find
        self._new_volumes = NewVolumes(parts)

    async def record(
        self,
        container_id: str,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networking: NetworkingConfig,
    ) -> ContainerRecord:
        """The record of a container that does not run yet; its root file system and its volumes exist.

        `NotFound` when there is no such image, and for nothing else: by that the docker client knows to pull it.
        `InvalidArgument` and `NotSupported` for what cannot be. A network is looked for when the container starts.
        `settle` or `abandon` is owed.
        """
        if not config.image:
            raise InvalidArgument("no image was named: Image must be set")
        image = self._parts.images.resolve(config.image)
        merged = merge(config, image.config.get("config") or {})
        host = self._normal(host)
        check_container(merged, host, networking, self._parts.cpus)
        if host.init:
            init_program()
        merged = self._renamed(merged, host)
        record = ContainerRecord(
            container_id, name, self._parts.clock(), image.id, config.image, merged, host, networking
        )
        self._check_networks(record)
        wanted_ports(record)
        inherited = self._inherited_mounts(host)
        return replace(record, mounts=await self._mounts(record, inherited, image))

    def volumes_wanted(self) -> Mapping[str, set[str]]:
        """Names of volumes by the containers that are being made."""
        return self._new_volumes.wanted()

    def settle(self, container_id: str) -> None:
        """The container exists."""
        self._new_volumes.settle(container_id)

    async def abandon(self, container_id: str) -> None:
        """It was not made; nothing of it is left."""
        await self._new_volumes.abandon(container_id)
        await self._parts.images.release(container_id)

    def _normal(self, host: HostConfig) -> HostConfig:
        """`host` with what is left open filled in, and containers named by their whole id."""

        def whole(field: str, mode: str) -> str:
            if not mode.startswith("container:"):
                return mode
            return f"container:{self._other(field, mode.removeprefix('container:')).id}"

        if host.ipc_mode.startswith("container:"):
            owner = self._other("IpcMode", host.ipc_mode.removeprefix("container:"))
            if owner.host.ipc_mode != "shareable":
                raise InvalidArgument(
                    f"HostConfig.IpcMode: cannot join IPC of container {owner.name}: non-shareable IPC (hint: use "
                    "IpcMode:shareable for the donor container)"
                )
        policy = host.restart_policy
        return replace(
            host,
            network_mode="bridge" if host.network_mode in ("", "default") else whole("NetworkMode", host.network_mode),
            ipc_mode=whole("IpcMode", host.ipc_mode) or "private",
            pid_mode=whole("PidMode", host.pid_mode),
            cgroupns_mode=host.cgroupns_mode or "private",
            shm_size=host.shm_size or _DEFAULT_SHM_BYTES,
            log_config=host.log_config if host.log_config.type else LogConfig("json-file", host.log_config.config),
            restart_policy=policy if policy.name else replace(policy, name="no"),
        )

    def _renamed(self, config: ContainerConfig, host: HostConfig) -> ContainerConfig:
        """Who shares another container's network is called as that one, as its /etc/hostname says."""
        if not host.network_mode.startswith("container:"):
            return config
        owner = self._other("NetworkMode", host.network_mode.removeprefix("container:"))
        return replace(config, hostname=shown_hostname(owner), domainname=owner.config.domainname)

    def _check_networks(self, record: ContainerRecord) -> None:
        for endpoint in record.networking.endpoints.values():
            if endpoint.aliases:
                raise InvalidArgument("network-scoped aliases are only supported for user-defined networks")
        ingress: EndpointConfig | None = record.networking.endpoints.get("ingress")
        if ingress is not None and not (ingress.ipam and ingress.ipam.ipv4_address):
            raise InvalidArgument("a container joins network ingress only with the address its task was given")

    def _inherited_mounts(self, host: HostConfig) -> tuple[VolumeMount, ...]:
        """`--volumes-from NAME[:ro]`."""
        mounts: dict[str, VolumeMount] = {}
        for entry in host.volumes_from:
            name, _, mode = entry.partition(":")
            if mode not in ("", "ro", "rw"):
                raise InvalidArgument(f"invalid mode '{mode}' in VolumesFrom '{entry}'")
            for mount in self._other("VolumesFrom", name).mounts:
                mounts[mount.target] = replace(mount, read_only=mount.read_only or mode == "ro", anonymous=False)
        return tuple(mounts.values())

    def _other(self, field: str, name: str) -> ContainerRecord:
        """The container that a field names. Clients take 404 for a missing image: without it, the argument is wrong."""
        try:
            return self._find(name)
        except NotFound as error:
            raise InvalidArgument(f"HostConfig.{field}: {error}") from error

    async def _mounts(
        self, record: ContainerRecord, inherited: Sequence[VolumeMount], image: Image
    ) -> tuple[VolumeMount, ...]:
        """Make the volumes the container needs; an empty one gets what the image has at its place."""
        wanted = wanted_mounts(record.config, record.host, inherited)
        root = await self._parts.root_fs(image, record.id)
        layers = [Path(path) for path in root.lower]
        return await self._new_volumes.make(record.id, wanted, layers)
