"""The life of containers, as the docker client sees it, with real containers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import socket
import struct
import subprocess
import tarfile
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engine.conftest import docker_clients
from tests.engine.host import Host, until
from tests.image.archives import Tar, docker_archive

pytestmark = [pytest.mark.root, pytest.mark.cluster]


def test_run_prints_and_returns(host: Host) -> None:
    done = host.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    until("--rm removes it", lambda: not host.out("ps", "-aq"))


def test_run_reads_its_input_to_the_end(host: Host) -> None:
    text = "line\n" * 50_000
    assert host.docker("run", "--rm", "-i", "busybox", "cat", input=text).stdout == text
    assert host.docker("run", "--rm", "-i", "busybox", "wc", "-l", input="").stdout.strip() == "0"


def test_a_life_step_by_step(host: Host) -> None:
    host.docker("create", "--name", "step", "-e", "A=1", "busybox", "sh", "-c", "echo $A; exec sleep 1000")
    assert host.inspect("step")["State"]["Status"] == "created"
    host.docker("start", "step")
    state = host.inspect("step")["State"]
    assert state["Running"] and state["Pid"] > 0
    until("it has written its line", lambda: host.out("logs", "step") == "1")
    assert host.out("exec", "step", "sh", "-c", "echo $A in $HOSTNAME") == f"1 in {host.inspect('step')['Id'][:12]}"
    assert host.docker("exec", "-i", "step", "cat", input="through exec").stdout == "through exec"
    assert host.docker("exec", "step", "sh", "-c", "exit 7", check=False).returncode == 7
    assert "sleep 1000" in host.out("top", "step")
    refused = host.docker("rm", "step", check=False)
    assert "stop the container before removing or force remove" in refused.stderr
    host.docker("stop", "-t", "0", "step")
    assert host.inspect("step")["State"]["ExitCode"] == 137
    host.docker("start", "step")
    until("both runs are in the log", lambda: host.out("logs", "step") == "1\n1")
    host.docker("restart", "-t", "0", "step")
    assert host.inspect("step")["State"]["Running"]
    host.docker("kill", "step")
    assert host.inspect("step")["State"]["Status"] == "exited"
    assert host.docker("kill", "step", check=False).returncode == 1
    host.docker("rm", "step")
    assert "No such container" in host.docker("logs", "step", check=False).stderr


def test_signals_and_exit_codes(host: Host) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    host.docker("run", "-d", "--name", "polite", "busybox", "sh", "-c", script)
    until("the trap is set", lambda: host.out("logs", "polite") == "ready")
    host.docker("stop", "polite")
    assert host.inspect("polite")["State"]["ExitCode"] == 9
    assert host.out("wait", "polite") == "9"
    host.docker("rm", "polite")


def test_what_cannot_be_run(host: Host) -> None:
    missing = host.docker("run", "--rm", "busybox", "no-such-program", check=False)
    assert (missing.returncode, "not found" in missing.stderr) == (127, True)
    forbidden = host.docker("run", "--rm", "busybox", "/etc/passwd", check=False)
    assert (forbidden.returncode, "permission denied" in forbidden.stderr.lower()) == (126, True)
    assert "Unable to find image" in host.docker("run", "--rm", "no-such-image:1", check=False).stderr
    container = host.out("run", "-d", "--rm", "busybox", "sleep", "99")
    assert host.docker("exec", container, "nope", check=False).returncode == 127
    host.docker("kill", container)
    until("nothing is left", lambda: not host.out("ps", "-aq"))


def test_names_are_unique(host: Host) -> None:
    first = host.out("create", "--name", "only", "busybox", "true")
    again = host.docker("create", "--name", "only", "busybox", "true", check=False)
    assert 'The container name "/only" is already in use' in again.stderr
    host.docker("rename", "only", "other")
    assert host.inspect("other")["Id"] == first
    assert host.inspect(first[:8])["Name"] == "/other"
    host.docker("rm", "other")


def test_a_terminal(host: Host) -> None:
    out = host.docker("run", "--rm", "-t", "busybox", "sh", "-c", "tty; stty size", check=False)
    assert "/dev/pts/0" in out.stdout
    host.docker("run", "-d", "-t", "--name", "term", "busybox", "sleep", "99")
    assert host.request("POST", "/containers/term/resize?h=40&w=100")[0] == 200
    assert host.out("exec", "term", "stty", "-F", "/dev/pts/0", "size") == "40 100"
    host.docker("rm", "-f", "term")


def test_a_person_at_a_terminal(host: Host) -> None:
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    person = subprocess.Popen(
        [host.docker_binary, "-H", host.address, "run", "-it", "--rm", "--name", "person", "busybox", "sh"],
        stdin=there, stdout=there, stderr=there, start_new_session=True,
    )  # fmt: skip
    os.close(there)
    seen = b""

    def shows(text: bytes) -> bool:
        nonlocal seen
        if select.select([here], [], [], 0.05)[0]:
            seen += os.read(here, 4096)
        return text in seen

    try:
        until("a prompt", lambda: shows(b"# "))
        until("the size of the window arrives", lambda: os.write(here, b"stty size\n") and shows(b"33 77"))
        os.write(here, b"sleep 50\n")
        # Before that the shell, which takes the interrupt for a key, has the terminal.
        until("it runs", lambda: "sleep 50" in host.docker("top", "person", check=False).stdout)
        os.write(here, b"\x03")
        os.write(here, b"echo $((6*7)); exit 5\n")
        until("the interrupt reached the program", lambda: shows(b"42"))
        assert person.wait(10) == 5
    finally:
        person.kill()
        person.wait()
        os.close(here)
        host.docker("rm", "-f", "person", check=False)


def test_logs(host: Host) -> None:
    script = "for i in 1 2 3 4; do echo $i; sleep 0.05; done; echo e >&2"
    host.docker("run", "--name", "talk", "busybox", "sh", "-c", script)
    assert host.docker("logs", "talk").stdout == "1\n2\n3\n4\n"
    assert host.docker("logs", "talk").stderr == "e\n"
    last = host.docker("logs", "-n", "2", "talk")
    assert (last.stdout, last.stderr) == ("4\n", "e\n")
    stamped = host.docker("logs", "-t", "talk").stdout.splitlines()[0].split()
    assert stamped[1] == "1" and stamped[0].endswith("Z")
    assert host.docker("logs", "--since", stamped[0], "--until", stamped[0], "talk").stdout == "1\n"
    host.docker("rm", "talk")


def test_following_logs_ends_with_the_container(host: Host) -> None:
    host.docker("run", "-d", "-i", "--name", "slow", "busybox", "sh", "-c", "echo first; read x; echo last")
    follower = subprocess.Popen(
        [host.docker_binary, "-H", host.address, "logs", "-f", "slow"], stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "first\n"
    host.docker("attach", "slow", input="go\n")
    assert follower.stdout.read() == "last\n"
    assert follower.wait(30) == 0
    host.docker("rm", "slow")


def test_logs_tell_more_when_asked(host: Host) -> None:
    log = [word for option in ("labels=a", "env=X", "tag={{.Name}}") for word in ("--log-opt", option)]
    options = ("--label", "a=b c", "-e", "X=1", *log)
    host.docker("run", "--name", "told", *options, "busybox", "sh", "-c", "echo one; printf two")
    assert host.out("logs", "--details", "told").splitlines() == ["X=1,a=b+c,tag=told one", "X=1,a=b+c,tag=told two"]
    stamp, details, line = host.out("logs", "--details", "-t", "--tail", "1", "told").split(" ")
    assert (len(stamp), details, line) == (30, "X=1,a=b+c,tag=told", "two")
    assert host.out("logs", "told") == "one\ntwo"
    host.docker("rm", "told")


def test_a_container_without_a_log(host: Host) -> None:
    assert host.out("run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "seen") == "seen"
    refused = host.docker("logs", "mute", check=False)
    assert (refused.returncode, "does not support reading" in refused.stderr) == (1, True)
    assert host.request("GET", "/containers/mute/logs?stdout=1")[0] == 501
    host.docker("rm", "mute")


def test_pause(host: Host) -> None:
    host.docker("run", "-d", "--name", "frozen", "busybox", "sleep", "99")
    host.docker("pause", "frozen")
    assert host.inspect("frozen")["State"]["Status"] == "paused"
    assert "is paused" in host.docker("exec", "frozen", "true", check=False).stderr
    assert "already paused" in host.docker("pause", "frozen", check=False).stderr
    host.docker("unpause", "frozen")
    host.docker("exec", "frozen", "true")
    host.docker("pause", "frozen")
    host.docker("rm", "-f", "frozen")


def test_limits_reach_the_kernel_and_can_change(host: Host) -> None:
    host.docker(
        "run", "-d", "--name", "small", "-m", "32m", "--memory-swap", "32m", "--cpus", "0.5", "--pids-limit", "20",
        "--ulimit", "nofile=100:200", "--sysctl", "net.ipv4.ip_forward=1", "busybox", "sleep", "99",
    )  # fmt: skip
    assert host.out("exec", "small", "sh", "-c", "ulimit -n; cat /proc/sys/net/ipv4/ip_forward").split() == ["100", "1"]
    stats = json.loads(host.out("stats", "--no-stream", "--format", "{{json .}}", "small"))
    assert stats["MemUsage"].endswith("32MiB")
    host.docker("update", "-m", "64m", "--memory-swap", "64m", "small")
    assert host.inspect("small")["HostConfig"]["Memory"] == 64 << 20
    stats = json.loads(host.out("stats", "--no-stream", "--format", "{{json .}}", "small"))
    assert stats["MemUsage"].endswith("64MiB")
    host.docker("rm", "-f", "small")


def test_out_of_memory_is_told_apart(host: Host) -> None:
    done = host.docker(
        "run", "--name", "oom", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "tail /dev/zero",
        check=False,
    )  # fmt: skip
    assert done.returncode == 137
    assert host.inspect("oom")["State"]["OOMKilled"]
    host.docker("rm", "oom")


def test_who_runs_and_where(host: Host) -> None:
    status = host.out("run", "--rm", "-u", "web", "busybox", "grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status")
    assert [line.split()[1] for line in status.splitlines()] == ["33", "34", "34"]
    where = host.out("run", "--rm", "-u", "web", "-w", "/var", "busybox", "sh", "-c", "echo $HOME; pwd")
    assert where == "/var/www\n/var"
    assert host.out("run", "--rm", "-h", "box", "busybox", "hostname") == "box"
    refused = host.docker("run", "--rm", "-u", "nobody-here", "busybox", "true", check=False)
    assert "unable to find user nobody-here" in refused.stderr


def test_at_each_start_a_user_is_who_the_container_itself_says(host: Host, tmp_path: Path) -> None:
    for name in ("who", "other"):
        host.docker("create", "--name", name, "-u", "web", "busybox", "id", "-u")
    assert host.out("start", "-a", "who") == "33"
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:44:34:web:/var/www:/bin/sh\n")
    host.docker("cp", str(passwd), "who:/etc/passwd")
    assert host.out("start", "-a", "who").split()[-1] == "44"
    assert host.out("start", "-a", "other") == "33"
    host.docker("rm", "who", "other")



def test_privileges(host: Host) -> None:
    def effective(*options: str) -> int:
        line = host.out("run", "--rm", *options, "busybox", "grep", "CapEff", "/proc/self/status")
        return int(line.split()[1], 16)

    assert effective() == 0xA80425FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "CHOWN") == 1
    assert host.docker("run", "--rm", "busybox", "mount", "-t", "tmpfs", "x", "/tmp", check=False).returncode != 0
    host.docker("run", "--rm", "--privileged", "busybox", "mount", "-t", "tmpfs", "x", "/tmp")
    assert host.docker("run", "--rm", "--read-only", "busybox", "touch", "/x", check=False).returncode != 0
    host.docker("run", "--rm", "--read-only", "--tmpfs", "/x", "busybox", "touch", "/x/y")


def test_binds_and_volumes(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    assert host.out("run", "--rm", "-v", f"{tmp_path}:/mnt:ro", "busybox", "cat", "/mnt/file") == "from the host"
    refused = host.docker("run", "--rm", "-v", f"{tmp_path}:/mnt:ro", "busybox", "touch", "/mnt/x", check=False)
    assert refused.returncode != 0
    assert host.out("run", "--rm", "-v", "web:/var/www", "busybox", "cat", "/var/www/index.html") == "from the image"
    host.docker("run", "--rm", "-v", "web:/data", "busybox", "sh", "-c", "echo kept > /data/index.html")
    assert host.out("run", "--rm", "-v", "web:/var/www", "busybox", "cat", "/var/www/index.html") == "kept"
    holder = host.out("create", "-v", "web:/w", "-v", "/anon", "busybox", "true")
    assert "volume is in use" in host.docker("volume", "rm", "web", check=False).stderr
    assert len(host.out("volume", "ls", "-q").split()) == 2
    host.docker("rm", "-v", holder)
    assert host.out("volume", "ls", "-q") == "web"
    host.docker("volume", "rm", "web")
    gone = host.docker("run", "--rm", "--mount", "type=bind,src=/no/such/dir,dst=/x", "busybox", "true", check=False)
    assert "bind source path does not exist" in gone.stderr


def test_networks(host: Host) -> None:
    host.docker("run", "-d", "--name", "srv", "-p", "127.0.0.1:0:80", "busybox", "httpd", "-f", "-h", "/var/www")
    address = host.inspect("srv")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert address
    seen = host.out("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/")
    assert seen == "from the image"
    port = host.out("port", "srv", "80").rpartition(":")[2]
    fetched = subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=False)
    assert fetched.stdout == "from the image\n"
    taken = host.docker("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true", check=False)
    assert taken.returncode == 125
    joined = host.out("run", "--rm", "--network", "container:srv", "busybox", "wget", "-qO-", "http://127.0.0.1/")
    assert joined == "from the image"
    assert host.out("run", "--rm", "--network", "none", "busybox", "ip", "-o", "link").count("\n") == 0
    assert "srv" in host.out("network", "inspect", "bridge")
    assert address in host.out("exec", "srv", "cat", "/etc/hosts")
    host.docker("rm", "-f", "srv")


def test_restart_policies(host: Host) -> None:
    host.docker("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "false")
    until("it has given up", lambda: host.inspect("again")["State"]["Status"] == "exited")
    assert host.inspect("again")["RestartCount"] == 2
    host.docker("rm", "again")
    host.docker("run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "0.1")
    until("it was started again", lambda: host.inspect("always")["RestartCount"] >= 1)
    host.docker("stop", "-t", "0", "always")
    assert host.inspect("always")["State"]["Status"] == "exited"
    host.docker("rm", "always")
    host.docker("run", "-d", "--name", "loop", "--restart", "always", "busybox", "false")
    until("it waits for its next start", lambda: host.inspect("loop")["State"]["Status"] == "restarting")
    host.docker("restart", "-t", "0", "loop")
    until("it waits again", lambda: host.inspect("loop")["State"]["Status"] == "restarting")
    host.docker("stop", "loop")
    assert host.inspect("loop")["State"]["Status"] == "exited"
    host.docker("rm", "loop")


def test_health(host: Host) -> None:
    host.docker(
        "run", "-d", "--name", "ill", "--health-cmd", "test -e /well", "--health-interval", "100ms",
        "--health-retries", "2", "busybox", "sleep", "99",
    )  # fmt: skip
    until("it is unhealthy", lambda: host.inspect("ill")["State"]["Health"]["Status"] == "unhealthy")
    host.docker("exec", "ill", "touch", "/well")
    until("it is healthy", lambda: "(healthy)" in host.out("ps", "--filter", "health=healthy"))
    host.docker("rm", "-f", "ill")


def test_copying(host: Host, tmp_path: Path) -> None:
    host.docker("run", "-d", "--name", "box", "busybox", "sleep", "99")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("text")
    host.docker("cp", str(tmp_path / "in"), "box:/tmp")
    assert host.out("exec", "box", "cat", "/tmp/in/file") == "text"
    host.docker("cp", "box:/tmp/in/file", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "text"
    host.docker("stop", "-t", "0", "box")
    host.docker("cp", str(tmp_path / "in/file"), "box:/tmp/later")
    host.docker("cp", "box:/tmp/later", str(tmp_path / "late"))
    assert (tmp_path / "late").read_text() == "text"
    host.docker("export", "-o", str(tmp_path / "all.tar"), "box")
    with tarfile.open(tmp_path / "all.tar") as exported:
        assert {"bin/busybox", "tmp/later", "tmp/in/file"} <= set(exported.getnames())
    host.docker("rm", "box")


def test_copying_what_is_in_a_directory(host: Host, tmp_path: Path) -> None:
    host.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "mkdir /d; echo 1 > /d/f; sleep 99")
    until("it has written", lambda: host.docker("exec", "box", "test", "-s", "/d/f", check=False).returncode == 0)
    (tmp_path / "there").mkdir()
    host.docker("cp", "box:/d/.", str(tmp_path / "there"))
    assert (tmp_path / "there/f").read_text() == "1\n"
    host.docker("cp", "box:/d", str(tmp_path / "there"))
    assert (tmp_path / "there/d/f").read_text() == "1\n"
    host.docker("rm", "-f", "box")


def test_exporting_what_runs(host: Host, tmp_path: Path) -> None:
    """The root file system as it is, without /proc, /sys and the volumes that are mounted in it."""
    script = "echo x > /vol/f; echo y > /f; sleep 99"
    host.docker("run", "-d", "--name", "box", "-v", "/vol", "busybox", "sh", "-c", script)
    until("it has written", lambda: host.docker("exec", "box", "test", "-s", "/f", check=False).returncode == 0)
    host.docker("export", "-o", str(tmp_path / "all.tar"), "box")
    with tarfile.open(tmp_path / "all.tar") as exported:
        names = set(exported.getnames())
    assert {"f", "proc", "vol", "etc/hosts", ".dockerenv"} <= names
    assert not {name for name in names if name.startswith(("proc/", "sys/", "vol/"))}
    host.docker("rm", "-fv", "box")


def test_an_image_of_many_layers(host: Host, tmp_path: Path) -> None:
    """It runs, and what is looked into while it does not run is all there."""
    host.docker("create", "--name", "box", "busybox")
    host.docker("export", "-o", str(tmp_path / "busybox.tar"), "box")
    host.docker("rm", "box")
    layers = [(tmp_path / "busybox.tar").read_bytes(), Tar().file(".wh..dockerenv").bytes()]
    layers += [Tar().file(f"layer{number}", b"").file("top", str(number).encode()).bytes() for number in range(40)]
    (tmp_path / "many.tar").write_bytes(docker_archive(layers, tags=["many:1"]).bytes())
    host.docker("load", "-i", str(tmp_path / "many.tar"))
    host.docker("run", "--name", "many", "many:1", "sh", "-c", "cat /top; echo x > /new; rm /layer7")
    assert host.out("logs", "many") == "39"
    host.docker("cp", "many:/layer20", str(tmp_path))
    host.docker("cp", str(tmp_path / "layer20"), "many:/layer7")
    assert set(host.out("diff", "many").splitlines()) == {"A /new", "C /layer7"}
    host.docker("export", "-o", str(tmp_path / "all.tar"), "many")
    with tarfile.open(tmp_path / "all.tar") as exported:
        assert {f"layer{number}" for number in range(40)} < set(exported.getnames())
    host.docker("rm", "many")
    host.docker("rmi", "many:1")


def test_a_container_that_did_nothing_changed_nothing(host: Host) -> None:
    host.docker("run", "--name", "idle", "busybox", "test", "-f", "/.dockerenv")
    assert host.out("diff", "idle") == ""
    host.docker("rm", "idle")


def test_what_a_container_changed(host: Host) -> None:
    script = "echo x > /new; rm /etc/group; rm -r /var/www; mkdir /var/www; echo y >> /etc/passwd"
    host.docker("run", "--name", "diff", "busybox", "sh", "-c", script)
    seen = set(host.out("diff", "diff").splitlines())
    assert {"A /new", "D /etc/group", "C /etc/passwd", "C /var/www", "D /var/www/index.html"} <= seen
    assert not any("busybox" in line for line in seen)
    host.docker("rm", "diff")


def test_sharing_memory_names_and_mounts(host: Host) -> None:
    host.docker(
        "run", "-d", "--name", "owner", "--hostname", "shown", "--ipc", "shareable", "busybox",
        "sh", "-c", "echo text > /dev/shm/file; sleep 99",
    )  # fmt: skip
    written = ("exec", "owner", "test", "-s", "/dev/shm/file")
    until("it has written", lambda: host.docker(*written, check=False).returncode == 0)
    joined = ("--ipc", "container:owner", "--network", "container:owner")
    assert host.out("run", "--rm", *joined, "busybox", "cat", "/dev/shm/file", "/etc/hostname") == "text\nshown"
    assert host.out("run", "--rm", *joined, "busybox", "hostname") == "shown"
    host.docker("run", "-d", "--name", "private", "busybox", "sleep", "99")
    refused = host.docker("run", "--rm", "--ipc", "container:private", "busybox", "true", check=False)
    assert (refused.returncode, "non-shareable IPC" in refused.stderr) == (125, True)
    host.docker("rm", "-f", "owner", "private")
    assert host.out("run", "--rm", "--uts", "host", "busybox", "hostname") == socket.gethostname()
    assert host.out("run", "--rm", "--ipc", "host", "busybox", "ls", "-d", "/dev/shm", "/dev/mqueue")
    volume = ("-v", "/etc", "--dns", "9.9.9.9")
    assert "nameserver 9.9.9.9" in host.out("run", "--rm", *volume, "busybox", "cat", "/etc/resolv.conf")
    sealed = host.docker("run", "--rm", "--read-only", "busybox", "touch", "/etc/hosts", check=False)
    assert "Read-only file system" in sealed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "nowhere"), "network nowhere not found"),
        (("--network", "container:nobody"), "No such container: nobody"),
        (("--pid", "container:nobody"), "No such container: nobody"),
        (("--ipc", "container:nobody"), "No such container: nobody"),
        (("--volumes-from", "nobody"), "No such container: nobody"),
        (("--cpuset-cpus", "77"), "'77' is not available"),
        (("--user", "stranger"), "unable to find user stranger"),
    ],
)
def test_what_is_missing_is_not_taken_for_the_image(host: Host, options: tuple[str, ...], message: str) -> None:
    """An answer of 404 to a creation makes the docker client pull."""
    refused = host.docker("run", "--rm", *options, "busybox", "true", check=False)
    assert refused.returncode == 125
    assert message in refused.stderr
    assert "Unable to find image" not in refused.stderr
    assert host.out("ps", "-aq") == ""


@pytest.mark.parametrize("client", docker_clients())
def test_execs_that_cannot_run(host: Host, client: str) -> None:
    host.docker("run", "-d", "--name", "busy", "busybox", "sleep", "99")
    host.docker_binary = client
    try:
        for options, code, message in (
            (("-u", "stranger", "busy", "true"), 126, "unable to find user stranger: no matching entries in passwd"),
            (("-u", "root:none", "busy", "true"), 126, "unable to find group none: no matching entries in group"),
            (("-w", "/nowhere", "busy", "true"), 126, 'chdir to cwd ("/nowhere") failed: no such file or directory'),
            (("busy", "/nowhere"), 127, "no such file or directory"),
            (("busy", "nowhere"), 127, "executable file not found in $PATH"),
            (("busy", "/etc/passwd"), 126, "permission denied"),
            (("busy", "sh", "-c", "exit 7"), 7, ""),
            (("busy", "sh", "-c", "kill -9 $$"), 137, ""),
        ):
            done = host.docker("exec", *options, check=False)
            assert (done.returncode, message in done.stdout + done.stderr) == (code, True), (options, done)
    finally:
        host.docker_binary = "docker"
        host.docker("rm", "-f", "busy")


def test_events_tell_a_life(host: Host) -> None:
    since = host.request("GET", "/info")[1]["SystemTime"]
    host.docker("run", "--rm", "--name", "seen", "--label", "k=v", "busybox", "true")
    until("it is gone", lambda: not host.out("ps", "-aq"))
    now = host.request("GET", "/info")[1]["SystemTime"]
    out = host.out("events", "--since", since, "--until", now, "--filter", "container=seen", "--format", "{{.Action}}")
    assert out.split() == ["create", "attach", "start", "die", "destroy"]


def test_a_new_volume_that_many_use_at_once(host: Host) -> None:
    """One of them fills it from the image, and it stays while any of them is being made."""
    commands = [["run", "--rm", "-v", "fresh:/etc", "busybox", "cat", "/etc/passwd"] for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        printed = list(pool.map(lambda words: host.out(*words), commands))
    assert len(set(printed)) == 1 and "root" in printed[0]
    host.docker("volume", "rm", "fresh")


def test_volumes_and_networks_are_told_of(host: Host) -> None:
    since = host.request("GET", "/info")[1]["SystemTime"]
    mount = "type=volume,src=labelled,dst=/data,volume-label=a=b"
    host.docker("run", "--name", "told", "--mount", mount, "-v", "/anonymous", "busybox", "true")
    host.docker("rm", "-v", "told")
    assert host.inspect("labelled")["Labels"] == {"a": "b"}
    host.docker("volume", "rm", "labelled")
    now = host.request("GET", "/info")[1]["SystemTime"]
    out = host.out("events", "--since", since, "--until", now, "--format", "{{.Type}} {{.Action}}").splitlines()
    assert [line for line in out if not line.startswith("container")] == [
        "volume create", "volume create", "volume mount", "volume mount", "network connect",
        "network disconnect", "volume unmount", "volume unmount", "volume destroy", "volume destroy",
    ]  # fmt: skip
    refused = host.docker("run", "--rm", "--mount", f"{mount},volume-opt=type=nfs", "busybox", "true", check=False)
    assert (refused.returncode, "type" in refused.stderr) == (125, True)


def test_old_clients_prune_named_volumes_too(host: Host) -> None:
    host.docker("volume", "create", "named")
    assert host.request("POST", "/v1.42/volumes/prune")[1]["VolumesDeleted"] is None
    assert host.request("POST", "/v1.41/volumes/prune")[1]["VolumesDeleted"] == ["named"]


def test_lists_by_port(host: Host) -> None:
    host.docker("run", "-d", "--name", "srv", "-p", "127.0.0.1:0:80", "--expose", "99/udp", "busybox", "sleep", "99")
    port = host.inspect("srv")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    for wanted, found in (
        (f"publish={port}", "srv"), (f"publish={port}/udp", ""), ("publish=80", ""), ("expose=80", "srv"),
        ("expose=99/udp", "srv"), ("expose=99", ""),
    ):  # fmt: skip
        assert host.out("ps", "--filter", wanted, "--format", "{{.Names}}") == found, wanted
    host.docker("rm", "-f", "srv")


def test_prune(host: Host) -> None:
    host.docker("run", "--name", "done", "busybox", "true")
    host.docker("run", "-d", "--name", "alive", "busybox", "sleep", "99")
    assert "Deleted Containers" in host.out("container", "prune", "-f")
    assert host.out("ps", "-a", "--format", "{{.Names}}") == "alive"
    host.docker("rm", "-f", "alive")
