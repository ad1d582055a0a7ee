"""CVE-2019-5736: what an image can do with the binary of the runtime that enters its container.

The image gets everything the attack needs: the interpreter's own libraries at their places, so that what it is given as
/proc/self/exe runs, and an attacker's program in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from swarmpy.runtime import ContainerIO, ExecProcess, uapi
from tests.runtime.conftest import Host

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]
INTERPRETER = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))

# Runs in the runtime's own interpreter, inside the container. It keeps the binary open, becomes another program, so
# that the text is not busy because of it, and then writes.
ATTACK = """
import os
seals = __import__("fcntl").fcntl(os.open("/proc/self/exe", os.O_RDONLY), 1034)
print("running", os.readlink("/proc/self/exe"), "seals", seals, flush=True)
held = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(held, True)
os.execv("/bin/sh", ["sh", "-c", f"echo '#!/bin/sh' > /proc/self/fd/{held} && echo OVERWRITTEN; echo attacked"])
"""


def with_libraries(config: dict[str, Any]) -> dict[str, Any]:
    prefix = os.path.realpath(sys.base_prefix)
    paths = {path for path in ("/lib", "/lib64", "/usr/lib", prefix) if os.path.isdir(path)}
    if prefix == "/usr":
        paths.discard(prefix)
    for path in sorted(paths):
        source = os.path.realpath(path)
        config["mounts"].append({"destination": path, "type": "bind", "source": source, "options": ["rbind", "ro"]})
    config["process"]["env"].append(f"PYTHONHOME={prefix}")
    return config


def digest() -> str:
    return hashlib.sha256(INTERPRETER.read_bytes()).hexdigest()


def assert_harmless(output: str, before: str) -> None:
    assert "memfd:swarmpy-runtime" in output and "seals 15" in output, output
    assert "attacked" in output and "OVERWRITTEN" not in output, output
    assert digest() == before


def test_an_image_whose_entry_point_is_the_runtime(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        before = digest()
        status, output = await host.run(with_libraries(host.config("/proc/self/exe", "-S", "-c", ATTACK)))
        assert status.exit_code == 0
        assert_harmless(output, before)

    with_host(test)


def test_an_exec_whose_interpreter_is_the_runtime(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        before = digest()
        bundle = host.bundles.write(with_libraries(host.config("sleep", "1000")))
        program = bundle / "upper/bin/innocent"
        program.parent.mkdir()
        program.write_text(f"#!/proc/self/exe -S\n{ATTACK}")
        program.chmod(0o755)
        container = await host.runtime.create("victim", bundle, ContainerIO())
        host.made.append(container)
        await container.start()
        env = ["PATH=/bin", f"PYTHONHOME={os.path.realpath(sys.base_prefix)}"]
        process = await container.exec(ExecProcess(["innocent"], env=env))
        output = b"".join([data async for _, data in process.streams()]).decode()
        assert await process.wait() == 0
        assert_harmless(output, before)
        status, text = await host.sh("echo the next container starts as well")
        assert (status.exit_code, text) == (0, "the next container starts as well\n")

    with_host(test)


def test_launcher_and_shims_run_from_a_sealed_copy(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "100"))
        for pid in (host.runtime._shims.launcher_pid, container.pid):
            with open(f"/proc/{pid}/exe", "rb") as file:
                assert fcntl.fcntl(file, uapi.F_GET_SEALS) == uapi.SEAL_EVERYTHING
            # Not dumpable: in a container, /proc/<pid> of it belongs to nobody who could look.
            assert os.stat(f"/proc/{pid}/exe", follow_symlinks=False).st_uid == 0

    with_host(test)


def test_the_environment_does_not_reach_the_launcher(with_host: WithHost, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Host) -> None:
        monkeypatch.setenv("PYTHONPATH", "/evil")
        monkeypatch.setenv("SECRET", "word")
        await host.runtime.close()
        await host.runtime.start()
        environment = Path(f"/proc/{host.runtime._shims.launcher_pid}/environ").read_bytes()
        assert b"evil" not in environment and b"SECRET" not in environment

    with_host(test)
