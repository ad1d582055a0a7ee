"""A root file system of busybox, bundles made of it, and the check that nothing of the room's tests is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from swarmpy.runtime import Container, ContainerIO, ExitStatus, FailureKind, Runtime, RuntimeFailure
from swarmpy.runtime.capabilities import DEFAULT_CAPABILITIES
from swarmpy.runtime.seccomp_profile import default_profile

T = TypeVar("T")
BUSYBOX = Path("/bin/busybox")
CGROUP_PREFIX = f"swarmpy-test-runtime-{os.getpid()}-"
NAMESPACES = ("pid", "network", "ipc", "mount", "uts", "cgroup")
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with busybox under every name that it has."""
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    root = tmp_path_factory.mktemp("busybox")
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "var"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in os.popen(f"{BUSYBOX} --list").read().split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:1000:\n")
    return root


class Bundles:
    """Makes bundles below one directory."""

    def __init__(self, directory: Path, layer: Path) -> None:
        self.directory = directory
        self.layer = layer

    def config(self, *args: str, **process: object) -> dict[str, Any]:
        """A configuration as an engine writes it: all namespaces, default devices, capabilities and seccomp."""
        capabilities = list(DEFAULT_CAPABILITIES)
        return {
            "ociVersion": "1.2.0",
            "process": {
                "args": list(args),
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                **process,
            },
            "root": {"path": "rootfs"},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec"]},
                {
                    "destination": "/dev/shm",
                    "type": "tmpfs",
                    "source": "shm",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
                },
                {
                    "destination": "/sys",
                    "type": "sysfs",
                    "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"],
                },
                {
                    "destination": "/sys/fs/cgroup",
                    "type": "cgroup",
                    "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
                },
            ],
            "linux": {
                "namespaces": [{"type": name} for name in NAMESPACES],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "seccomp": default_profile(capabilities),
                "maskedPaths": MASKED,
                "readonlyPaths": READONLY,
            },
        }

    def write(self, config: dict[str, Any], *, overlay: bool = True) -> Path:
        bundle = self.directory / uuid.uuid4().hex
        for name in ("rootfs", "upper", "work"):
            (bundle / name).mkdir(parents=True)
        if overlay:
            layers = {"lower": [str(self.layer)], "upper": str(bundle / "upper"), "work": str(bundle / "work")}
            config.setdefault("annotations", {})["io.swarmpy.rootfs"] = json.dumps(layers)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle


class Host:
    """A runtime with what the tests ask of it, in few words."""

    def __init__(self, runtime: Runtime, bundles: Bundles, state: Path, cgroup_parent: str) -> None:
        self.runtime = runtime
        self.bundles = bundles
        self.state = state
        self.cgroup_parent = cgroup_parent
        self.made: list[Container] = []

    def config(self, *args: str, **process: object) -> dict[str, Any]:
        return self.bundles.config(*args, **process)

    async def create(
        self, config: dict[str, Any], io: ContainerIO | None = None, *, overlay: bool = True, id: str | None = None
    ) -> Container:
        bundle = self.bundles.write(config, overlay=overlay)
        io = io or ContainerIO(log_path=bundle / "log.json", terminal=bool(config["process"].get("terminal")))
        container = await self.runtime.create(id or uuid.uuid4().hex * 2, bundle, io)
        self.made.append(container)
        return container

    async def run(self, config: dict[str, Any], io: ContainerIO | None = None) -> tuple[ExitStatus, str]:
        """How it ended, and all it wrote."""
        container = await self.create(config, io)
        streams = await container.attach()
        await container.start()
        output = [data async for _, data in streams]
        await streams.close()
        status = await container.wait()
        await container.delete()
        self.made.remove(container)
        return status, b"".join(output).decode(errors="replace")

    async def sh(self, script: str, **process: object) -> tuple[ExitStatus, str]:
        return await self.run(self.config("sh", "-c", script, **process))

    async def clean(self) -> None:
        for container in self.made:
            try:
                await container.kill(9)
            except RuntimeFailure as failure:  # it has ended, whether we have heard of that or not
                assert failure.kind is FailureKind.CONFLICT, failure
            await container.wait()
            await container.delete()
        self.made = []


def log_of(bundle: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (bundle / "log.json").read_text().splitlines()]


@pytest.fixture
def bundles(tmp_path: Path, busybox_root: Path) -> Bundles:
    return Bundles(tmp_path / "bundles", busybox_root)


@pytest.fixture
def with_host(bundles: Bundles, tmp_path: Path) -> Callable[[Callable[[Host], Awaitable[None]]], None]:
    """Runs a coroutine function with a `Host`, and takes everything down after it."""

    @asynccontextmanager
    async def host() -> AsyncIterator[Host]:
        parent = f"/{CGROUP_PREFIX}{uuid.uuid4().hex[:12]}"
        runtime = Runtime(tmp_path / "state", cgroup_parent=parent)
        await runtime.start()
        made = Host(runtime, bundles, tmp_path / "state", parent)
        try:
            yield made
        finally:
            try:
                await made.clean()
            finally:
                await made.runtime.close()

    def run(test: Callable[[Host], Awaitable[None]]) -> None:
        async def body() -> None:
            async with host() as made, asyncio.timeout(60):
                await test(made)

        asyncio.run(body())

    return run


def processes_with(word: bytes) -> set[int]:
    """Processes with `word` in their command line: launchers and shims both show their state directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, mount or cgroup of this room stays."""
    base = str(tmp_path_factory.getbasetemp())
    yield
    assert not processes_with(f"{base}/".encode()), "launchers or shims are left"
    mounted = Path("/sys/fs/cgroup")
    assert not [*mounted.glob(f"*/{CGROUP_PREFIX}*"), *mounted.glob(f"{CGROUP_PREFIX}*")], "cgroups are left"
    assert base not in Path("/proc/self/mountinfo").read_text(), "mounts are left"
