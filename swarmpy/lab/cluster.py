"""A lab: whole hosts with real daemons on one machine, joined into a swarm.

Owns    the directories of the lab, the wire, the hosts' first processes. What is up is asked of the kernel and of these
        processes each time; a `Lab` may be opened by any number of processes.
Laws    `down` leaves nothing: no process, link, cgroup, mount or file. What the lab itself left in a crash is found
        again by its names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound, SwarmpyError, Unavailable
from swarmpy.lab.cgroups import remove_cgroups, thaw
from swarmpy.lab.host import Host, end_process, find_hosts, poll_until
from swarmpy.lab.plan import (
    CGROUP_PARENT,
    DAEMON,
    DATA_DIR,
    RUN_DIR,
    HostPlan,
    LabPlan,
    checked_name,
    choose_number,
)

if TYPE_CHECKING:
    from swarmpy.lab.engine_api import EngineAPI
    from swarmpy.lab.wire import Wire

__all__ = ["HostStatus", "Lab", "down_all", "labs"]

SERVICE = "daemon"
START_DEADLINE_S = 60.0
JOIN_DEADLINE_S = 60.0
PLAN_FILE = "lab.json"


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One line of `lab ls`. `state`: "running", "paused", "daemon ended (-9)", "down"."""

    name: str
    role: str
    address: str
    docker_host: str
    state: str


class Lab:
    """One lab of this machine. Make it with `up`, find it again with `open`."""

    def __init__(self, plan: LabPlan) -> None:
        self.plan = plan

    @cached_property
    def wire(self) -> Wire:
        """The wire between the hosts."""
        from swarmpy.lab.wire import Wire  # pyroute2 takes longer than all that `lab ls` does, and it needs none

        return Wire(self.plan)

    # ------------------------------------------------------------------------------------------ the whole

    @classmethod
    def up(
        cls,
        name: str = "lab",
        managers: int = 3,
        workers: int = 3,
        *,
        run_root: Path = RUN_DIR,
        data_root: Path = DATA_DIR,
        daemon: Sequence[str] = DAEMON,
        swarm: bool = True,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Lab:
        """Every host runs its daemon; with `swarm` all are one swarm, the first manager having made it.

        `daemon` is the command of swarmpyd, for labs of another version than this one.

        Raises Conflict when there is a lab of that name. When it fails nothing of the lab is left.
        """
        with _one_at_a_time():
            from swarmpy.lab.wire import numbers_in_use

            number = choose_number(numbers_in_use())
            plan = LabPlan.make(checked_name(name), number, managers, workers, run_root, data_root, tuple(daemon))
            _make_directory(plan)
            lab = cls(plan)
            try:
                lab.wire.start()
            except BaseException:
                lab.down()
                raise
        try:
            progress(f"starting {len(plan.hosts)} hosts")
            _in_parallel(lambda host: lab.start(host.name), plan.hosts)
            if swarm:
                progress("joining them into a swarm")
                lab.join_all()
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str = "lab", *, run_root: Path = RUN_DIR) -> Lab:
        """The lab `name`, up or not. NotFound when there is none."""
        try:
            return cls(LabPlan.from_json((run_root / checked_name(name) / PLAN_FILE).read_text()))
        except FileNotFoundError:
            raise NotFound(f"there is no lab {name}; make it with: swarmpy lab up --name {name}") from None

    def down(self) -> None:
        """Nothing of the lab is left on the machine. Idempotent."""
        _in_parallel(lambda host: self._end(self.host(host.name)), self.plan.hosts)
        self.wire.host.end()
        from swarmpy.lab.wire import remove_machine_link

        remove_machine_link(self.plan.machine_link)
        remove_cgroups(self.plan.cgroup)
        _remove_directories(self.plan.run_dir, self.plan.data_dir)

    def status(self) -> list[HostStatus]:
        """Every host, in the order of the plan."""
        return [
            HostStatus(host.name, host.role, host.address, self.docker_host(host.name), self.state(host.name))
            for host in self.plan.hosts
        ]

    def join_all(self) -> None:
        """The first manager makes a swarm and all other hosts join it, at the same time."""
        first, *others = self.plan.hosts
        api = self.api(first.name)
        api.init_swarm(first.swarm_address)
        tokens = api.join_tokens()

        def join(host: HostPlan) -> None:
            def attempt() -> bool:
                try:
                    self.api(host.name).join_swarm(host.swarm_address, [first.swarm_address], tokens[host.role])
                except Unavailable:
                    return False
                return True

            poll_until(attempt, JOIN_DEADLINE_S, f"host {host.name} to join the swarm, see {self.log(host.name)}")

        _in_parallel(join, others)

    # ---------------------------------------------------------------------------------------------- one host

    def host(self, name: str) -> Host:
        """Raises NotFound."""
        return Host(self.plan.name, self.plan.host(name).name, self.plan.run_dir / name)

    def api(self, name: str) -> EngineAPI:
        from swarmpy.lab.engine_api import EngineAPI  # and with it http.client, which a list of labs does without

        return EngineAPI(self.api_socket(name))

    def api_socket(self, name: str) -> Path:
        return self.plan.run_dir / self.plan.host(name).name / "api.sock"

    def docker_host(self, name: str) -> str:
        """What DOCKER_HOST must be to speak to the host."""
        return f"unix://{self.api_socket(name)}"

    def log(self, name: str) -> Path:
        """Where the host's daemon writes."""
        return self.host(name).log(SERVICE)

    def state(self, name: str) -> str:
        host = self.host(name)
        if host.pid() is None:
            return "down"
        try:
            status = host.status()
        except Unavailable:    # one host that stands still does not hide the others
            return "does not answer" if host.pid() is not None else "down"
        daemon = status["services"].get(SERVICE)
        if daemon is None:
            return "daemon not started"
        if not daemon["running"]:
            return f"daemon ended ({daemon['exit_code']})"
        return "paused" if status["paused"] else "running"

    def start(self, name: str) -> None:
        """The host's daemon answers, whatever of the host was down before. Internal, with the end of its log, when it
        ends instead; Unavailable when it takes longer than a minute."""
        plan, host = self.plan.host(name), self.host(name)
        if host.pid() is None:
            self._boot(plan, host)
        host.spawn(SERVICE, self._daemon_command(plan), _environment())
        api = self.api(name)

        def answers() -> bool:
            if not host.running(SERVICE):
                raise Internal(f"the daemon of host {name} ended as it started: {_tail(self.log(name))}")
            return api.ping()

        poll_until(answers, START_DEADLINE_S, f"the daemon of host {name}, see {self.log(name)}")

    def kill(self, name: str, *, with_containers: bool = False) -> None:
        """The host's daemon is killed with SIGKILL, its containers live on; `with_containers`, the whole host is gone
        as when power fails: not a packet leaves it any more. Conflict when there is nothing to kill."""
        plan, host = self.plan.host(name), self.host(name)
        if host.pid() is None:
            raise Conflict(f"host {name} is already down")
        if with_containers:
            self.wire.unplug(plan)
            self._end(host)
        elif not host.kill(SERVICE):
            raise Conflict(f"the daemon of host {name} is already dead")

    def stop(self, name: str) -> None:
        """The host's daemon has ended by itself, told by SIGTERM; its containers live on."""
        host = self.host(name)
        host.signal(SERVICE, signal.SIGTERM)
        poll_until(lambda: not host.running(SERVICE), START_DEADLINE_S, f"the daemon of host {name} to end")

    def pause(self, name: str, *, daemon_only: bool = False) -> None:
        """Every process of the host stands still; with `daemon_only` its containers go on."""
        self._signal_host(name, signal.SIGSTOP, daemon_only)

    def resume(self, name: str, *, daemon_only: bool = False) -> None:
        """What `pause` stopped goes on."""
        self._signal_host(name, signal.SIGCONT, daemon_only)

    def run(self, name: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """`argv` has run inside the host, with DOCKER_HOST set; `options` are those of subprocess.run."""
        env = {**os.environ, "DOCKER_HOST": self.docker_host(name), **options.pop("env", {})}
        return subprocess.run(self.host(name).command(argv), env=env, **{"check": False, **options})

    # ----------------------------------------------------------------------------------------------- the wire

    def partition(self, *groups: str, one_way: bool = False) -> None:
        """Hosts of different comma-separated groups no longer reach each other; one group alone is cut off from all
        others. `one_way`: only what the first group sends to the others is lost."""
        chosen = [self.plan.group(group) for group in groups]
        named = [host for group in chosen for host in group]
        if len(set(named)) != len(named):
            raise InvalidArgument("a host may be in one group of a partition only")
        if len(chosen) == 1:
            chosen.append(tuple(host for host in self.plan.hosts if host not in named))
        if len(chosen) < 2 or not all(chosen):
            raise InvalidArgument("a partition needs hosts on both sides, as in: manager1,worker1 manager2,manager3")
        self.wire.partition(chosen, one_way=one_way)

    def delay(self, hosts: str, delay_s: float, *, jitter_s: float = 0.0, loss: float = 0.0) -> None:
        """Each frame to and from the comma-separated `hosts` takes `delay_s` ± `jitter_s` longer, or is lost."""
        from swarmpy.lab.wire import Impairment

        impairment = Impairment(delay_s, jitter_s, loss)
        for plan in self.plan.group(hosts):
            self.wire.impair(plan, impairment)

    def heal(self) -> None:
        """The wire is whole: no partition, delay or loss. Hosts stay as they are."""
        self.wire.heal()

    # ------------------------------------------------------------------------------------------------- inside

    def _boot(self, plan: HostPlan, host: Host) -> None:
        directory = self.plan.run_dir / plan.name
        shutil.rmtree(directory / "exec", ignore_errors=True)  # of the boot before
        remove_cgroups(f"{self.plan.cgroup}/{plan.name}", and_empty_parents=False)
        host.boot()
        self.wire.plug(plan, host)

    def _end(self, host: Host) -> None:
        thaw(f"{self.plan.cgroup}/{host.name}")
        host.end()

    def _daemon_command(self, plan: HostPlan) -> list[str]:
        directory = self.plan.run_dir / plan.name
        return [
            *self.plan.daemon,
            "--data-root", str(self.plan.data_dir / plan.name),
            "--exec-root", str(directory / "exec"),
            "--host", self.docker_host(plan.name),
            "--cgroup-parent", f"{self.plan.cgroup}/{plan.name}",
            "--node-name", plan.name,
        ]  # fmt: skip

    def _signal_host(self, name: str, number: int, daemon_only: bool) -> None:
        host = self.host(name)
        if daemon_only:
            host.signal(SERVICE, number)
        else:
            host.signal_all(number)


def labs(run_root: Path = RUN_DIR) -> list[Lab]:
    """Every lab of the machine that has a readable plan."""
    return [Lab.open(path.parent.name, run_root=run_root) for path in sorted(run_root.glob(f"*/{PLAN_FILE}"))]


def down_all(run_root: Path = RUN_DIR, data_root: Path = DATA_DIR) -> list[str]:
    """No lab is left, nor what a lab that crashed left behind; returns the names of those there were.

    Goes by names alone: of processes, links, cgroups and directories.
    """
    from swarmpy.lab.wire import remove_machine_link

    names = {path.name for root in (run_root, data_root) if root.is_dir() for path in root.iterdir()}
    found = [(pid, lab) for pid, lab, _, socket_path in find_hosts() if Path(socket_path).is_relative_to(run_root)]
    names |= {lab for _, lab in found}
    links = {lab.plan.machine_link for lab in labs(run_root)}
    for name in names:
        thaw(f"{CGROUP_PARENT}/{name}")
    for pid, _ in found:
        end_process(pid)
    for link in links:
        remove_machine_link(link)
    for name in sorted(names):
        remove_cgroups(f"{CGROUP_PARENT}/{name}")
        _remove_directories(run_root / name, data_root / name)
    return sorted(names)


def _make_directory(plan: LabPlan) -> None:
    plan.run_root.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        plan.run_dir.mkdir(mode=0o711)
    except FileExistsError:
        raise Conflict(
            f"lab {plan.name} already exists; take it down with: swarmpy lab down --name {plan.name}"
        ) from None
    (plan.run_dir / PLAN_FILE).write_text(plan.to_json())
    if plan.data_dir.exists():
        shutil.rmtree(plan.data_dir)  # of a lab that a reboot ended
    plan.data_dir.mkdir(mode=0o711, parents=True)


def _remove_directories(*directories: Path) -> None:
    """The plan goes first with its directory, so that a half-removed lab is not taken for one."""
    for directory in directories:
        if directory.exists():
            shutil.rmtree(directory)
        try:
            directory.parent.rmdir()
        except OSError:
            continue  # other labs live there, or it was never made


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of all processes of this machine: from choosing a number until the link that shows it is taken. flock(2)."""
    directory = os.open("/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _environment() -> dict[str, str]:
    """What a daemon sees of ours: where to find programs, and this very package."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM", "TZ") if name in os.environ}
    package_root = str(Path(__file__).parent.parent.parent)
    return {**kept, "PYTHONPATH": package_root, "PYTHONUNBUFFERED": "1"}


def _tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "it wrote no log"


def _in_parallel(work: Callable[[HostPlan], object], hosts: Iterable[HostPlan]) -> None:
    """`work` is done for all; the first failure is raised once none is still at it."""
    failures: list[SwarmpyError] = []

    def guarded(host: HostPlan) -> None:
        try:
            work(host)
        except SwarmpyError as failure:
            failures.append(failure)

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="lab") as pool:
        list(pool.map(guarded, hosts))
    if failures:
        raise failures[0]
