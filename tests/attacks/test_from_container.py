"""What a container can do to its host, driven by the docker client. What the runtime itself keeps is tested with it
(tests/runtime/test_confinement.py, test_sealed.py), hostile archives in tests/image/test_unpack.py."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from swarmpy.lab.web_image import add, web_root
from tests.attacks.target import Target, until
from tests.runtime.conftest import processes_with

pytestmark = [pytest.mark.root, pytest.mark.cluster]

MIB = 1 << 20


def sh(target: Target, script: str, *options: str) -> str:
    """All that a script prints in a new container, whatever its exit code."""
    done = target.run("run", "--rm", *options, "busybox", "sh", "-c", script)
    return f"{done.stdout}\n{done.stderr}"


def test_cgroups_cannot_be_written_or_mounted(target: Target) -> None:
    """A release agent is a program that the kernel starts on the host: cgroups(7), CVE-2022-0492."""
    said = sh(
        target,
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do busybox touch $d/new 2>/dev/null && echo WROTE $d;"
        " busybox mkdir $d/child 2>/dev/null && echo MADE $d;"
        " for f in release_agent notify_on_release cgroup.procs devices.allow memory.max; do"
        " echo 1 2>/dev/null >$d/$f && echo WROTE $d/$f; done; done;"
        " busybox mkdir /tmp/c; for k in cgroup cgroup2; do busybox mount -t $k x /tmp/c && echo MOUNTED;"
        " busybox unshare -UrC busybox mount -t $k x /tmp/c && echo MOUNTED; done;"
        " busybox mount -o remount,rw /sys/fs/cgroup && echo MOUNTED; echo through",
    )
    assert "through" in said
    assert not any(word in said for word in ("WROTE", "MADE", "MOUNTED")), said


def test_devices_of_the_host_cannot_be_opened(target: Target) -> None:
    """A container may make nodes, as with Docker; the devices cgroup decides about opening them."""
    disks = [line.split()[:2] for line in Path("/proc/partitions").read_text().splitlines()[2:]][:8]
    nodes = [("b", *numbers) for numbers in disks] + [("c", "1", "1"), ("c", "1", "11"), ("c", "10", "237")]
    script = "".join(
        f"busybox mknod /tmp/{kind}{major}.{minor} {kind} {major} {minor} || echo NONODE;"
        f" busybox head -c 1 /tmp/{kind}{major}.{minor} >/dev/null && echo OPENED;"
        for kind, major, minor in nodes
    )
    said = sh(target, script + "echo through")
    assert "through" in said and "OPENED" not in said and "NONODE" not in said, said
    assert said.count("Operation not permitted") == len(nodes)


def test_mounts_stay_inside(target: Target, tmp_path: Path) -> None:
    """Even those of a container that may mount, below a volume of the host's."""
    (tmp_path / "below").mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    box = target.docker(
        "run", "-d", "--cap-add=SYS_ADMIN", "-v", f"{tmp_path}:/v", "busybox",
        "sh", "-c", "busybox mount -t tmpfs x /v/below && echo mounted; busybox sleep 1000",
    )  # fmt: skip
    until(lambda: "mounted" in target.docker("logs", box), "the container mounts")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert str(tmp_path) not in Path(f"/proc/{target.pid}/mountinfo").read_text()
    target.docker("rm", "-f", box)
    assert "MOUNTED" not in sh(target, "busybox mount -t tmpfs x /tmp && echo MOUNTED")


def test_the_hosts_processes_are_out_of_reach(target: Target) -> None:
    """Seen, with the host's process ids, and no more: proc(5) and ptrace(2) ask for what root in here does not have."""
    victims = [target.pid, 1, *shims(target)]
    script = "".join(
        f"for what in root/ cwd/ environ mem maps exe fd/0 ns/mnt; do"
        f" busybox head -c 1 /proc/{pid}/$what >/dev/null 2>&1 && echo READ {pid} $what;"
        f" busybox ls /proc/{pid}/$what/ >/dev/null 2>&1 && echo LISTED {pid} $what; done;"
        f" busybox nsenter -t {pid} -m busybox true 2>/dev/null && echo ENTERED {pid};"
        f" for what in root cwd exe fd/0; do busybox readlink /proc/{pid}/$what && echo LINK {pid} $what; done;"
        for pid in victims
    )
    said = sh(target, f"{script} busybox test -d /proc/{target.pid} && echo through", "--pid=host")
    assert "through" in said
    assert not any(word in said for word in ("READ", "LISTED", "ENTERED", "LINK")), said


def shims(target: Target) -> list[int]:
    """The launcher and what it has forked."""
    found = sorted(processes_with(str(target.root / "exec1/runtime").encode()))
    assert len(found) >= 2
    return found


def test_no_working_directory_is_a_descriptor_of_the_host(target: Target) -> None:
    """CVE-2024-21626: a directory of the host that is still open becomes where a process begins."""
    box = target.docker("run", "-d", "busybox", "sleep", "1000")
    for number in range(3, 12):
        where = f"/proc/self/fd/{number}"
        for command in (["exec", "-w", where, box], ["run", "--rm", "-w", where, "busybox"]):
            done = target.run(*command, "sh", "-c", "busybox ls -d ../../../../../../work ../../../../../../etc/shadow")
            assert done.returncode != 0 and "shadow\n" not in f"{done.stdout}\n", done.stdout
    target.docker("rm", "-f", box)


# ----------------------------------------------------------------------------------------------- system calls

CALLS = (
    "add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "open_by_handle_at", "init_module",
    "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "acct", "mount", "umount2", "pivot_root",
    "move_mount", "fsopen", "open_tree", "setns", "quotactl", "settimeofday", "clock_settime", "iopl", "ioperm",
    "lookup_dcookie", "vhangup", "syslog", "sethostname", "io_uring_setup",
)  # fmt: skip
PROBE = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, number in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    found[name] = (libc.syscall(number, -1, -1, -1, -1, -1), ctypes.get_errno())
for what, flags in (("unshare user", 0x10000000), ("unshare mount", 0x20000)):
    found[what] = (libc.unshare(flags), ctypes.get_errno())
print(json.dumps(found))
"""


def test_keyrings_and_other_doors_of_the_kernel_are_shut(target: Target) -> None:
    """Keyrings are not separated between containers (keyrings(7)); the rest asks for what is the host's alone."""
    library = ctypes.CDLL("libseccomp.so.2")
    numbers = {name: library.seccomp_syscall_resolve_name(name.encode()) for name in CALLS}
    prefix = os.path.realpath(sys.base_prefix)
    places = {path for path in ("/lib", "/lib64", "/usr/lib", prefix) if Path(path).is_dir()}
    volumes = [f"-v={Path(path).resolve()}:{path}:ro" for path in sorted(places)]
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    said = target.docker(
        "run", "--rm", *volumes, "busybox", interpreter, "-I", "-S", "-c", PROBE,
        json.dumps({name: number for name, number in numbers.items() if number >= 0}),
    )  # fmt: skip
    passed = {name: how for name, how in json.loads(said).items() if how[1] not in (errno.EPERM, errno.ENOSYS)}
    assert not passed


# ----------------------------------------------------------------------------------------------------- hogs


def test_a_fork_bomb_meets_its_limit_and_others_go_on(target: Target) -> None:
    bomb = target.docker(
        "run", "-d", "--pids-limit=40", "busybox", "sh", "-c",
        "(while true; do busybox sleep 1000 & done); exec busybox sleep 1000",
    )  # fmt: skip
    pids = until(lambda: grown if len(grown := pids_of(target, bomb)) > 30 else None, "it grows")
    assert len(pids) <= 40
    assert target.docker("run", "--rm", "busybox", "echo", "others go on") == "others go on"
    target.docker("rm", "-f", bomb)
    assert not any(Path(f"/proc/{pid}/root/bin/busybox").exists() for pid in pids)


def pids_of(target: Target, box: str) -> list[str]:
    return target.docker("top", box, "-o", "pid").split()[1:]


def test_memory_and_files_in_memory_have_limits(target: Target) -> None:
    before = target.memory()
    box = target.docker(
        "run", "-d", "--memory=32m", "--memory-swap=32m", "busybox", "sh", "-c", "x=a; while true; do x=$x$x; done",
    )  # fmt: skip
    assert target.docker("wait", box) == "137"
    assert target.docker("inspect", "-f", "{{.State.OOMKilled}}", box) == "true"
    said = sh(target, "for f in /dev/shm/x /dev/x; do busybox dd if=/dev/zero of=$f bs=1M count=100; done")
    assert said.count("No space left on device") == 2, said
    assert target.memory() - before < 32 * MIB
    target.docker("rm", box)


def test_an_endless_log_keeps_to_its_files(target: Target) -> None:
    box = target.docker(
        "run", "-d", "--log-opt=max-size=64k", "--log-opt=max-file=2", "busybox", "busybox", "yes", "a line of a log",
    )  # fmt: skip
    path = Path(target.docker("inspect", "-f", "{{.LogPath}}", box))
    until(path.with_name(f"{path.name}.1").exists, "the log has begun its second file")
    target.docker("kill", box)
    files = list(path.parent.glob(f"{path.name}*"))
    assert len(files) == 2 and sum(file.stat().st_size for file in files) < 256 << 10
    target.docker("rm", "-f", box)


# -------------------------------------------------------------------------------------------- a hostile image


def test_an_image_whose_files_are_traps(target: Target) -> None:
    """The daemon looks into an image for users and groups: it reads no file of the host, and waits for none."""
    secret = target.root / "hosts-passwd"
    secret.write_text("mallory:x:0:0::/:/bin/sh\n")
    for name, kind, link in (
        ("link", tarfile.SYMTYPE, str(secret)), ("up", tarfile.SYMTYPE, "../../../../../../../.." + str(secret)),
        ("proc", tarfile.SYMTYPE, f"/proc/{target.pid}/root{secret}"), ("pipe", tarfile.FIFOTYPE, ""),
        ("zero", tarfile.CHRTYPE, ""),
    ):  # fmt: skip
        target.docker("import", "-", f"trap-{name}", stdin=trap(kind, link))
        done = target.run("run", "--rm", "--user=mallory", f"trap-{name}", "true")
        assert done.returncode == 125 and "unable to find user mallory" in done.stderr, done.stderr
        target.docker("rmi", f"trap-{name}")


def trap(kind: bytes, link: str) -> bytes:
    """The image busybox with something else in the place of /etc/passwd."""
    archive = io.BytesIO(web_root())
    with tarfile.open(fileobj=archive, mode="a") as tar:
        entry = tarfile.TarInfo("etc/passwd")
        entry.type, entry.linkname, entry.devmajor, entry.devminor, entry.mode = kind, link, 1, 5, 0o666
        tar.addfile(entry)
        add(tar, "etc/large", b"x" * 10, 0o644)
    return archive.getvalue()
