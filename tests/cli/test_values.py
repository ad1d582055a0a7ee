"""What people type on a command line, and how a refusal reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.cli import values


@pytest.mark.parametrize(
    ("text", "ns"), [("10s", 10 * 10**9), ("1m30s", 90 * 10**9), ("500ms", 5 * 10**8), ("0", 0), ("1.5h", 5400 * 10**9)]
)
def test_durations(text: str, ns: int) -> None:
    assert values.duration_ns("delay", text) == ns


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "-1s", "1m x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="--delay"):
        values.duration_ns("delay", text)


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("1g", 1 << 30), ("512", 512), ("1.5k", 1536), ("2GB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.size_bytes("memory", text) == size


def test_cpus() -> None:
    assert values.nano_cpus("cpus", "0.5") == 500_000_000
    with pytest.raises(ValueError, match="--cpus: 'half'"):
        values.nano_cpus("cpus", "half")


def test_ports_in_short_and_long_form() -> None:
    assert values.ports("8080:80") == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress", "PublishedPort": 8080}
    ]
    assert values.ports("53/udp") == [{"Protocol": "udp", "TargetPort": 53, "PublishMode": "ingress"}]
    assert [port["PublishedPort"] for port in values.ports("8080-8081:80-81")] == [8080, 8081]
    assert values.ports("mode=host,target=80,published=8080,protocol=udp") == [
        {"Protocol": "udp", "PublishMode": "host", "TargetPort": 80, "PublishedPort": 8080}
    ]


@pytest.mark.parametrize(
    "text", ["http", "8080:", "80-70", "8080-8082:80-81", "70000", "1.2.3.4:80:80", "mode=host", "x=1"]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match="--publish"):
        values.ports(text)


def test_mounts() -> None:
    assert values.mount("type=bind,source=/srv,target=/data,readonly") == {
        "Type": "bind", "Source": "/srv", "Target": "/data", "ReadOnly": True,
    }
    assert values.mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20, "Mode": 0o700,
    }
    assert values.mount(
        "source=v,target=/v,volume-nocopy,volume-label=a=1,volume-label=b=2,volume-driver=local,volume-opt=o=bind,"
        "volume-subpath=s"
    )["VolumeOptions"] == {
        "NoCopy": True, "Labels": {"a": "1", "b": "2"}, "DriverConfig": {"Name": "local", "Options": {"o": "bind"}},
        "Subpath": "s",
    }  # fmt: skip
    assert values.mount("type=bind,src=/a,dst=/b,bind-propagation=rslave,bind-recursive=writable")["BindOptions"] == {
        "Propagation": "rslave", "ReadOnlyNonRecursive": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type=tmpfs", "target=PATH is missing"),
        ("type=bind,colour=red", "'colour' is not a field"),
        ("type=tmpfs,target=/t,tmpfs-mode=rwx", "tmpfs-mode: 'rwx' is not a mode"),
        ("type=tmpfs,target=/t,tmpfs-size=big", "tmpfs-size: 'big' is not a size"),
        ("type=bind,src=/a,dst=/b,bind-recursive=maybe", "'maybe' is not one of enabled, disabled"),
    ],
)
def test_what_is_no_mount(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"--mount: .*{words}"):
        values.mount(text)


def test_devices() -> None:
    assert values.device("/dev/a") == {
        "PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rwm",
    }  # fmt: skip
    assert values.device("/dev/a:/dev/b:r") == {
        "PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r",
    }  # fmt: skip
    assert values.device("/dev/a:rw")["CgroupPermissions"] == "rw"
    assert values.throttle("device-read-bps", "/dev/a:1mb") == {"Path": "/dev/a", "Rate": 1 << 20}
    for wrong in ("a", "/dev/a:/dev/b:r:w"):
        with pytest.raises(ValueError, match="--device"):
            values.device(wrong)
    with pytest.raises(ValueError, match="--device-read-bps"):
        values.throttle("device-read-bps", "1mb")


def test_files_of_lines_and_of_profiles(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\n\nA=1\n  B=two words\n")
    assert values.lines("env-file", [str(tmp_path / "env")]) == ["A=1", "B=two words"]
    (tmp_path / "profile").write_text("{}")
    options = ["no-new-privileges", "apparmor:unconfined", "seccomp=unconfined", f"seccomp={tmp_path}/profile"]
    assert values.security_options(options) == [
        "no-new-privileges", "apparmor=unconfined", "seccomp=unconfined", "seccomp={}",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"--env-file: .*nowhere: No such file"):
        values.lines("env-file", [str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match=r"--security-opt: .*nowhere: No such file"):
        values.security_options([f"seccomp={tmp_path}/nowhere"])


def test_an_environment_variable_without_value_takes_ours() -> None:
    assert values.env(["A=1", "HOME", "ABSENT"], {"HOME": "/root"}) == ["A=1", "HOME=/root"]


def test_ulimits() -> None:
    assert values.ulimit("nofile=1024:2048") == {"Name": "nofile", "Soft": 1024, "Hard": 2048}
    assert values.ulimit("core=0") == {"Name": "core", "Soft": 0, "Hard": 0}
    with pytest.raises(ValueError, match="--ulimit"):
        values.ulimit("nofile")
