"""One container's life on this host: started, watched to its end, started again by its policy, stopped, removed.

Owns    the container's current `ContainerRecord` and its runtime handle. Operations of a user exclude each other; the
        end of the process is observed by one supervising task and never waits for an operation.
Laws    a state is changed only through `state.move`, and is on disk before anyone is told of it; a stop by the user is
        on disk before the signal is sent, so that a crash in between does not start the container again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from swarmpy.engine.attachments import Attachments
from swarmpy.engine.config import HostConfig
from swarmpy.engine.health import HealthMonitor
from swarmpy.engine.joined_events import tell_of_joining, tell_of_leaving
from swarmpy.engine.launching import clean_up, launch, take_down
from swarmpy.engine.parts import Parts
from swarmpy.engine.probes import run_probe
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.restart import Decision, after_exit
from swarmpy.engine.runtime_errors import start_failure, translated
from swarmpy.engine.signals import parse_signal
from swarmpy.engine.state import ContainerState, Status, move, require_running
from swarmpy.engine.waiting import Waiters, WaitResult, resolved
from swarmpy.errors import Conflict, Internal, SwarmpyError
from swarmpy.runtime import Container, ExitStatus, RuntimeFailure, Streams

__all__ = ["LiveContainer"]

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 10
_UNKNOWN_EXIT = 255  # what Docker reports for a process whose end nobody saw


class LiveContainer:
    """The one object that acts on a container.

    `joined` gives the namespaces of other containers that this one shares, at each start; `remove_itself` is called
    once a container with `--rm` has ended.
    """

    def __init__(
        self,
        parts: Parts,
        record: ContainerRecord,
        joined: Callable[[ContainerRecord], Mapping[str, str]],
        remove_itself: Callable[[str], Awaitable[None]],
    ) -> None:
        self._parts = parts
        self._joined = joined
        self._remove_itself = remove_itself
        self._starts_again = False
        self.record = record
        self.handle: Container | None = None
        self.attachments = Attachments()
        self.health: HealthMonitor | None = None
        self._operation = asyncio.Lock()
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff_ns = 0
        self._backing_off = False
        self._saving = asyncio.Lock()
        self._on_disk: tuple[object, ...] = ()      # what was observed, as last saved in this life of the daemon
        self._waiting = Waiters()
        self.removed = False

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ContainerState:
        return self.record.state

    @property
    def display(self) -> str:
        """As messages name it."""
        return self.record.name or self.record.id[:12]

    def running_handle(self) -> Container:
        """The handle of a container that runs; `Conflict` when it does not."""
        require_running(self.state, self.display)
        if self.handle is None:
            raise Conflict(f"container {self.display} is not running")
        return self.handle

    def publish(self, action: str, **attributes: str) -> None:
        """Tell the event bus, with the attributes every container event has."""
        record = self.record
        common = {**record.labels, "image": record.image_name, "name": record.name}
        self._parts.events.publish("container", action, record.id, {**common, **attributes})

    async def save(self, **changes: Any) -> None:
        """Change the record and persist what was observed. `Internal` when the disk does not take it."""
        self.record = replace(self.record, **changes)
        if not self.removed:
            await self._write_state(lambda: self.record)

    async def save_asked(self, *, name: str | None = None, host: HostConfig | None = None) -> None:
        """Change what was asked (rename, update) and persist it."""

        def changed() -> ContainerRecord:
            return replace(self.record, name=name or self.record.name, host=host or self.record.host)

        await self._write(lambda: self._parts.records.save_config(changed()))
        self.record = changed()

    async def _write_state(self, current: Callable[[], ContainerRecord]) -> None:
        """Persist what was observed by then, unless it is on disk already."""
        async with self._saving:
            record = current()
            observed = (record.state, record.endpoints, record.ports)
            if observed != self._on_disk:
                await self._in_turn(lambda: self._parts.records.save_state(record))
                self._on_disk = observed

    async def _write(self, write: Callable[[], None]) -> None:
        async with self._saving:
            await self._in_turn(write)

    async def _in_turn(self, write: Callable[[], None]) -> None:
        """One write after the other, so that the last is the newest; one that has begun is finished."""
        writing = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise
        except OSError as error:
            raise Internal(f"container {self.display} cannot be written to disk: {error}") from error

    # -- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> bool:
        """The process runs afterwards; False when it already did.

        `Conflict` while paused, `InvalidArgument` when the command cannot be executed.
        """
        async with self._operation:
            if self.state.status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if self.state.status in (Status.RUNNING, Status.RESTARTING):
                return False
            if self.state.status not in (Status.CREATED, Status.EXITED):
                raise Conflict(f"container {self.display} is marked for removal and cannot be started")
            failure = await self._start()
        if failure is not None:
            if self.record.host.auto_remove:
                await self._remove_itself(self.record.id)
            raise failure
        return True

    async def _start(self) -> SwarmpyError | None:
        """Start it, or record why it could not be and return that."""
        self._backoff_ns = 0
        fresh = replace(self.state, restart_count=0, stopped_by_user=False)
        self.record = replace(self.record, state=fresh)
        try:
            handle = await self._launch()
        except (SwarmpyError, OSError) as error:
            code, reason = start_failure(error)
            status = Status.CREATED if self.state.status is Status.CREATED else Status.EXITED
            await self.save(state=replace(self.state, status=status, exit_code=code, error=str(reason), pid=0))
            self._waiting.stopped(WaitResult(code, str(reason)))
            return reason
        self._supervisor = asyncio.create_task(self._supervise(handle), name=f"container {self.display}")
        return None

    async def _launch(self) -> Container:
        """Its process runs afterwards, and that is on disk; `SwarmpyError` leaves nothing behind."""
        handle, attachment = await launch(self._parts, self.record, self._joined(self.record), self.attachments)
        state = move(
            self.state, Status.RUNNING, pid=handle.pid, started_ns=self._parts.clock(), exit_code=0, error="",
            oom_killed=False, health=None,
        )  # fmt: skip
        self.handle = handle
        try:
            await self.save(state=state, endpoints=attachment.endpoints, ports=attachment.ports)
        except BaseException:
            self.handle = None
            self.record = replace(self.record, endpoints=(), ports=())
            await take_down(self._parts, self.record, handle)
            raise
        tell_of_joining(self._parts.events, self.record)
        self.publish("start")
        self._watch_health()
        return handle

    # -- adoption -----------------------------------------------------------------------------------------------------

    def adopt(self, handle: Container) -> None:
        """Take over a container that an earlier daemon started, whether it still runs or has ended meanwhile."""
        self.handle = handle
        self._watch_health()
        self._supervisor = asyncio.create_task(self._supervise(handle), name=f"container {self.display}")

    async def discard(self, handle: Container) -> None:
        """End what an earlier daemon began and never told anyone of."""
        await take_down(self._parts, self.record, handle)

    async def lost(self) -> None:
        """Record the end of a container that ran when the host went down."""
        if self.state.status in (Status.RUNNING, Status.PAUSED):
            state = move(
                self.state, Status.EXITED, pid=0, exit_code=_UNKNOWN_EXIT, finished_ns=self._parts.clock()
            )
            await self.save(state=state, endpoints=(), ports=())

    def resume_restarting(self) -> None:
        """Go on with a restart that an earlier daemon was waiting to make."""
        self._supervisor = asyncio.create_task(self._restart(Decision(0)), name=f"restart {self.display}")

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _supervise(self, first: Container) -> None:
        handle: Container | None = first
        while handle is not None:
            status = await handle.wait()
            if status.error:
                log.error("container %s: %s", self.record.id, status.error)
            decision = await self._ended(handle, status)
            handle = await self._again(decision) if decision.wait_ns is not None else None
        await self._finished()

    async def _restart(self, decision: Decision) -> None:
        handle = await self._again(decision)
        if handle is not None:
            await self._supervise(handle)
        else:
            await self._finished()

    async def _ended(self, handle: Container, status: ExitStatus) -> Decision:
        """Clean up after a process, record how it ended and tell everyone; what follows is returned.

        How it ended is on disk before the runtime forgets it. The container counts as running until all is cleaned up,
        so that a start that comes meanwhile does not meet what is left of it.
        """
        if self.health is not None:
            await self.health.stop()
            self.health = None
        final, _ = self._final(status)
        await self._write_or_log(final)
        await clean_up(self._parts, self.record, handle)
        self.handle = None
        final, decision = self._final(status)  # a stop may have come meanwhile
        self._backoff_ns = decision.backoff_ns
        before, self.record = self.record, final
        await self._write_or_log(final)
        if status.oom_killed:
            self.publish("oom")
        ran = _ran_ns(final.state)
        self.publish("die", exitCode=str(status.exit_code), execDuration=str(ran // 1_000_000_000))
        tell_of_leaving(self._parts.events, before)
        result = WaitResult(status.exit_code, status.error)
        if final.state.status is Status.EXITED:
            self._waiting.stopped(result)
        else:
            self._waiting.exited(result)
        return decision

    async def _write_or_log(self, record: ContainerRecord) -> None:
        """An end is an end, also when the disk is full: then the next daemon learns of it from the runtime."""
        try:
            await self._write_state(lambda: record)
        except Internal as error:
            log.error("%s", error)

    def _final(self, status: ExitStatus) -> tuple[ContainerRecord, Decision]:
        """The record after the end, and what follows."""
        before = self.state
        ran = max(0, status.finished_ns - before.started_ns)
        decision = after_exit(self.record.host.restart_policy, before, status.exit_code, ran, self._backoff_ns)
        state = move(
            before, Status.EXITED if decision.wait_ns is None else Status.RESTARTING, pid=0,
            exit_code=status.exit_code, error=status.error, oom_killed=status.oom_killed,
            health=before.health and replace(before.health, status="unhealthy"), finished_ns=status.finished_ns,
        )  # fmt: skip
        return replace(self.record, state=state, endpoints=(), ports=()), decision

    async def _again(self, decision: Decision) -> Container | None:
        """Start again after the back-off; None when a stop came before it or the start failed.

        A stop that comes during the back-off cancels it, and with it the supervising task.
        """
        if self.state.status is not Status.RESTARTING:
            return None
        self._backing_off = True
        try:
            await asyncio.sleep((decision.wait_ns or 0) / 1e9)
            await self._operation.acquire()
        finally:
            self._backing_off = False
        try:
            self.record = replace(
                self.record, state=replace(self.state, restart_count=self.state.restart_count + 1)
            )
            try:
                return await self._launch()
            except (SwarmpyError, OSError) as error:
                code, reason = start_failure(error)
                await self.save(state=move(self.state, Status.EXITED, exit_code=code, error=str(reason)))
                self._waiting.stopped(WaitResult(code, str(reason)))
                return None
        finally:
            self._operation.release()

    async def _finished(self) -> None:
        if self.record.host.auto_remove and self.state.status is Status.EXITED and not self._starts_again:
            await self._remove_itself(self.record.id)

    # -- stop, kill, pause --------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float | None = None, signal_name: str | None = None) -> bool:
        """It does not run afterwards; False when it did not before. Past the timeout it is killed; -1 is for ever."""
        async with self._operation:
            return await self._stop(timeout_s, signal_name)

    async def restart(self, timeout_s: float | None, signal_name: str | None) -> None:
        """Stop it if it runs, then start it."""
        async with self._operation:
            self._starts_again = True
            try:
                await self._stop(timeout_s, signal_name)
                if self._supervisor is not None:
                    await asyncio.wait([self._supervisor])
            finally:
                self._starts_again = False
            failure = await self._start()
        if failure is not None:
            raise failure
        self.publish("restart")

    async def _stop(self, timeout_s: float | None, signal_name: str | None) -> bool:
        if self.state.status is Status.RESTARTING:
            await self.save(state=move(self.state, Status.EXITED, stopped_by_user=True))
            if self._backing_off and self._supervisor is not None:
                self._supervisor.cancel()
            self._waiting.stopped(WaitResult(self.state.exit_code))
            self.publish("stop")
            return True
        if self.handle is None or not self.state.running:
            return False
        await self.save(state=replace(self.state, stopped_by_user=True))
        stopped = self._waiting.add("not-running")
        number = parse_signal(signal_name or self.record.config.stop_signal, signal.SIGTERM)
        await self._signal(number)
        configured = self.record.config.stop_timeout
        limit = timeout_s if timeout_s is not None else _STOP_TIMEOUT_S if configured is None else configured
        try:
            await asyncio.wait_for(asyncio.shield(stopped), None if limit < 0 else limit)
        except TimeoutError:
            await self._signal(signal.SIGKILL)
            await stopped
        self.publish("stop")
        return True

    async def kill(self, signal_name: str = "") -> None:
        """Send a signal; `Conflict` when it does not run. After SIGKILL its end has been recorded."""
        number = parse_signal(signal_name, signal.SIGKILL)
        if self.state.status is Status.RESTARTING and number == signal.SIGKILL:
            async with self._operation:
                await self._stop(0, None)
            return
        if self.handle is None or not self.state.running:
            raise Conflict(f"cannot kill container: {self.display}: container {self.record.id} is not running")
        final = number in (signal.SIGKILL, parse_signal(self.record.config.stop_signal, signal.SIGTERM))
        if final:
            await self.save(state=replace(self.state, stopped_by_user=True))
        stopped = self._waiting.add("not-running") if number == signal.SIGKILL else None
        await self._signal(number)
        if stopped is not None:
            await stopped

    async def _signal(self, number: int) -> None:
        handle = self.handle
        if handle is None:
            return
        try:
            await handle.kill(number)
            if handle.paused and self.state.status is Status.PAUSED:
                await handle.resume()
        except RuntimeFailure as error:
            if handle.status is not None:
                return  # it ended meanwhile
            raise translated(error) from error
        self.publish("kill", signal=str(number))

    async def pause(self) -> None:
        """No process of the container gets to run; `Conflict` unless it runs."""
        async with self._operation:
            if self.state.status is Status.PAUSED:
                raise Conflict(f"Container {self.display} is already paused")
            await self._freeze(Status.PAUSED, "pause")

    async def unpause(self) -> None:
        """Its processes run again; `Conflict` unless it is paused."""
        async with self._operation:
            if self.state.status is not Status.PAUSED:
                raise Conflict(f"Container {self.display} is not paused")
            await self._freeze(Status.RUNNING, "unpause")

    async def _freeze(self, to: Status, action: str) -> None:
        handle = self.running_handle()
        try:
            await (handle.pause() if to is Status.PAUSED else handle.resume())
        except RuntimeFailure as error:
            raise translated(error) from error
        if self.handle is handle:
            await self.save(state=move(self.state, to))
            self.publish(action)

    async def change(self, host: HostConfig, resources: dict[str, object]) -> None:
        """Take over new limits and a new restart policy; the limits count at once when it runs."""
        async with self._operation:
            handle = self.handle
            if handle is not None and resources:
                try:
                    await handle.update(resources)
                except RuntimeFailure as error:
                    if handle.status is None:  # else it has just ended, and its next start reads the new limits
                        raise translated(error) from error
            await self.save_asked(host=host)
            self.publish("update")

    # -- streams and probes -------------------------------------------------------------------------------------------

    def attach(self) -> Awaitable[Streams | None]:
        """Its streams: at once when it runs, else once it starts. Registered when this returns."""
        handle = self.handle
        if handle is None or not self.state.running:
            return self.attachments.wait()
        return self._attach_now(handle)

    async def _attach_now(self, handle: Container) -> Streams | None:
        try:
            return await handle.attach()
        except RuntimeFailure as error:
            if handle.status is not None:
                return None  # it ended meanwhile
            raise translated(error) from error

    async def resize(self, height: int, width: int) -> None:
        """Set its terminal's size; `Conflict` unless it runs."""
        try:
            await self.running_handle().resize(height, width)
        except RuntimeFailure as error:
            raise translated(error) from error
        self.publish("resize", height=str(height), width=str(width))

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, condition: str) -> asyncio.Future[WaitResult]:
        """A future of "not-running", "next-exit" or "removed". It is registered when this returns."""
        if condition == "not-running" and not self.state.running:
            return resolved(WaitResult(self.state.exit_code, self.state.error))
        return self._waiting.add(condition)

    # -- removal ------------------------------------------------------------------------------------------------------

    async def remove(self, *, force: bool) -> None:
        """No daemon will know the container any more; `Conflict` when it runs, unless `force` kills it first.

        Its files are out of use; `RecordStore.remove` is owed.
        """
        if self.state.running and not force:
            hint = "unpause and then stop the container" if self.state.status is Status.PAUSED else "stop the container"
            raise Conflict(
                f'cannot remove container "/{self.record.name}": container is {self.state.status.value}: {hint} before '
                "removing or force remove"
            )
        if self.state.running:
            await self.kill()
        async with self._operation:
            if self.removed:
                return
            if self.state.running:
                raise Conflict(f"container {self.display} was started again while it was being removed")
            self.record = replace(self.record, state=move(self.state, Status.REMOVING))
            records, container_id = self._parts.records, self.record.id
            try:
                # Who asked for --rm asks it of the next daemon too, should power be lost before the disk knows.
                durably = not self.record.host.auto_remove
                await asyncio.to_thread(records.forget, container_id, durably=durably)
                await self._parts.images.release(container_id)
            except OSError as error:
                await self.save(state=move(self.state, Status.DEAD, error=str(error)))
                raise Internal(f"container {self.display} could not be removed: {error}") from error
            self.removed = True
        self.publish("destroy")
        result = WaitResult(self.state.exit_code)
        self._waiting.removed(result)
        self.attachments.abandon()

    async def close(self) -> None:
        """The daemon ends; the container goes on."""
        if self.health is not None:
            await self.health.stop()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._waiting.cancel()

    def _watch_health(self) -> None:
        health = self.record.config.healthcheck
        if health is not None and health.test and health.test[0] != "NONE":
            self.health = HealthMonitor(self._parts, self, health, run_probe)
            self.health.start()


def _ran_ns(state: ContainerState) -> int:
    return max(0, state.finished_ns - state.started_ns)
