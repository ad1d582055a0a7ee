"""A container's whole life: create, start, run /bin/true, be waited for and deleted.

Ours through the asyncio `Runtime`, as the daemon uses it; runc and crun through their command line, one `run` for each
container, as containerd and podman use them. The same config.json for all: all namespaces, default devices, seccomp,
cgroups. State directories are on a tmpfs, as /run is. crun of Debian cannot take a hybrid cgroup layout whose v2 part
has controllers, so it runs in a mount namespace that does not show that part.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import Row, alternate, compare
from swarmpy.lab.cgroups import remove_cgroups
from swarmpy.runtime import ContainerIO, Runtime
from swarmpy.runtime.capabilities import DEFAULT_CAPABILITIES
from swarmpy.runtime.seccomp_profile import default_profile

CONTAINERS = 20  # in each sample
GOALS = {"runc": 1 / 0.35, "crun": 1.5}


def measure(repeats: int) -> list[Row]:
    """Milliseconds per container, one after the other."""
    with _workplace() as place:
        rows = []
        for name, peer in (("runc", _peer(place, "runc")), ("crun", _peer(place, "crun"))):
            ours, theirs = alternate(repeats, lambda: asyncio.run(_ours(place)), peer)
            version = _version(name) if peer else f"no {name} on this machine"
            rows.append(compare(f"container start to delete, {name}", "ms", "less", ours, theirs, version, GOALS[name]))
        return rows


class _Place:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.cgroup = f"/swarmpy-bench-{os.getpid()}"
        self.bundle = base / "bundle"


@contextmanager
def _workplace() -> Iterator[_Place]:
    place = _Place(Path(tempfile.mkdtemp(prefix="swarmpy-bench-", dir="/dev/shm")))
    try:
        rootfs = place.bundle / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "sys"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")
        (rootfs / "bin/true").symlink_to("busybox")
        (place.bundle / "config.json").write_text(json.dumps(_config(place.cgroup)))
        yield place
    finally:
        remove_cgroups(place.cgroup)
        shutil.rmtree(place.base)


def _config(cgroup: str) -> dict[str, Any]:
    capabilities = list(DEFAULT_CAPABILITIES)
    mounts = (
        ("/proc", "proc", ["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    )
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": [
            {"destination": destination, "type": kind, "source": kind, "options": options}
            for destination, kind, options in mounts
        ],
        "linux": {
            "cgroupsPath": f"{cgroup}/container",
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 100}},
            "seccomp": default_profile(capabilities),
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


async def _ours(place: _Place) -> float:
    runtime = Runtime(place.base / "state", cgroup_parent=place.cgroup)
    await runtime.start()
    io = ContainerIO(log_path=place.base / "log.json")
    try:
        await _one(runtime, place.bundle, io)  # the first compiles the seccomp profile; a daemon does that once
        begin = time.perf_counter()
        for _ in range(CONTAINERS):
            await _one(runtime, place.bundle, io)
        return (time.perf_counter() - begin) / CONTAINERS * 1000
    finally:
        await runtime.close()


async def _one(runtime: Runtime, bundle: Path, io: ContainerIO) -> None:
    container = await runtime.create("bench", bundle, io)
    try:
        await container.start()
        status = await container.wait()
    except BaseException:
        await container.kill(signal.SIGKILL)
        await container.wait()
        raise
    finally:
        await container.delete()
    if status.exit_code != 0:
        raise RuntimeError(f"/bin/true ended with {status}")


def _peer(place: _Place, name: str) -> Callable[[], float] | None:
    program = shutil.which(name)
    if program is None:
        return None
    # The loop is the shell's, so that the peer does not pay for a Python that forks.
    run = f"{program} --root {place.base}/{name} run --bundle {place.bundle} bench </dev/null >/dev/null"
    loop = f"i=0; while [ $i -lt {CONTAINERS} ]; do {run} || exit 1; i=$((i+1)); done"
    if name == "crun" and Path("/sys/fs/cgroup/unified").exists():
        loop = f"umount /sys/fs/cgroup/unified; {loop}"
    command = ["unshare", "--mount", "sh", "-c", loop] if name == "crun" else ["sh", "-c", loop]

    def sample() -> float:
        begin = time.perf_counter()
        subprocess.run(command, check=True)
        return (time.perf_counter() - begin) / CONTAINERS * 1000

    return sample


def _version(name: str) -> str:
    text = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(text.split("\n")[0].replace("version", "").split())
