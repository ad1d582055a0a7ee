"""The parts of a daemon that need no swarm: runtime, images, network and engine, each standing on those before it."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace

from swarmpy.daemon.config import Config
from swarmpy.engine import Engine, EngineConfig
from swarmpy.errors import Internal
from swarmpy.image import DEFAULT_DOMAIN, ImageStore, RegistryConfig
from swarmpy.network import HostNetwork
from swarmpy.runtime import Runtime, RuntimeFailure

__all__ = ["Host"]

log = logging.getLogger("swarmpy.runtime")


class Host:
    """This host's container engine. Containers are adopted by `start` and go on after `close`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._runtime = Runtime(config.exec_root / "runtime", cgroup_parent=config.cgroup_parent, log=log.info)
        registries = RegistryConfig(insecure=config.insecure_registries)
        if config.registry_mirror:
            registries = replace(registries, endpoints={DEFAULT_DOMAIN: config.registry_mirror})
        self._images = ImageStore(config.data_root / "images", registries=registries)
        self._network = HostNetwork(config.network_prefix, config.exec_root / "network")
        engine_config = EngineConfig(
            data_root=config.data_root,
            name=config.node_name,
            labels=tuple(f"{key}={value}" for key, value in config.labels),
        )
        self.engine = Engine(engine_config, self._runtime, self._images, self._network)
        self._started = AsyncExitStack()

    async def start(self) -> None:
        """Everything is up, bottom first. Raises SwarmpyError; `close` is owed all the same."""
        self.config.exec_root.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            for part in (self._runtime, self._images, self._network, self.engine):
                self._started.push_async_callback(part.close)
                await part.start()
        except RuntimeFailure as failure:
            raise Internal(f"the container runtime cannot start: {failure}") from failure

    async def close(self) -> None:
        """What was started has ended, top first."""
        await self._started.aclose()
