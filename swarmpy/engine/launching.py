"""Bringing a container's process up, and taking down what is left of it: runtime, networks and ports together."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping

from swarmpy.engine import endpoints
from swarmpy.engine.attachments import Attachments
from swarmpy.engine.bundles import prepare_bundle, write_hosts
from swarmpy.engine.endpoints import Attachment
from swarmpy.engine.parts import Parts
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.runtime_errors import translated
from swarmpy.errors import SwarmpyError
from swarmpy.runtime import Container, RuntimeFailure

__all__ = ["clean_up", "launch", "take_down"]

log = logging.getLogger(__name__)


async def launch(
    parts: Parts, record: ContainerRecord, joined: Mapping[str, str], attachments: Attachments
) -> tuple[Container, Attachment]:
    """Create the container in the runtime, join its networks, connect who waits for its streams, start its process.

    `SwarmpyError` leaves nothing behind, and those who wait for streams get none.
    """
    try:
        prepared = await prepare_bundle(parts, record, joined)
        try:
            handle = await parts.runtime.create(record.id, prepared.directory, prepared.io, prepared.config)
        except RuntimeFailure as error:
            raise translated(error) from error
        try:
            attachment = await endpoints.attach(parts.network, record, handle.pid)
            await asyncio.to_thread(write_hosts, prepared, record, attachment)
            await attachments.connect(handle)
            try:
                await handle.start()
            except RuntimeFailure as error:
                raise translated(error) from error
        except BaseException:
            await take_down(parts, record, handle)
            raise
    except BaseException:
        attachments.abandon()
        raise
    return handle, attachment


async def take_down(parts: Parts, record: ContainerRecord, handle: Container) -> None:
    """Undo a creation whose process never ran, or should not have."""
    try:
        if handle.status is None:
            await handle.kill(signal.SIGKILL, everyone=True)
            await handle.wait()
        await handle.delete()
    except RuntimeFailure as error:
        log.error("container %s could not be taken down: %s", record.id, error)
    await endpoints.detach(parts.network, record)


async def clean_up(parts: Parts, record: ContainerRecord, handle: Container) -> None:
    """After an end: networks, ports, cgroup and shim are given back.

    All at the same time. What cannot be is logged, and the end is recorded all the same; the next daemon repairs it.
    """
    detach = endpoints.detach(parts.network, record)
    what = "its networks", "its cgroup or shim"
    for name, outcome in zip(what, await asyncio.gather(detach, handle.delete(), return_exceptions=True), strict=True):
        if isinstance(outcome, (SwarmpyError, RuntimeFailure, OSError)):
            log.error("container %s ended, but %s could not be removed: %s", record.id, name, outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
