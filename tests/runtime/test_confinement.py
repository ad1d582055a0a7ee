"""What a process in a container sees, may and may not."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.runtime import ContainerIO, ExecProcess, FailureKind, RuntimeFailure
from swarmpy.runtime.capabilities import CAPABILITIES
from tests.runtime.conftest import Host

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


def test_default_devices_and_links(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = (
            "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done;"
            "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null;"
            "head -c 3 /dev/zero | wc -c"
        )
        status, output = await host.sh(script)
        assert status.exit_code == 0, output
        assert output.split("\n")[:6] == [
            f"/dev/{name} {major}:{minor} 666"
            for name, major, minor in (
                ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
            )
        ]  # fmt: skip
        links = ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx", "3"]
        assert output.split("\n")[6:12] == links

    with_host(test)


def test_devices_cgroup_denies_what_is_not_named(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "exec 3</dev/net/tun && echo opened")
        config["linux"]["devices"] = [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]
        _, output = await host.run(config)
        assert "not permitted" in output
        allowed = {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "r"}
        config["linux"]["resources"]["devices"].append(allowed)
        _, output = await host.run(config)
        assert "opened" in output and "not permitted" not in output

    with_host(test)


def test_masked_and_readonly_paths(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = (
            "wc -c < /proc/cmdline; ls /sys/firmware | wc -l; ls /proc/acpi 2>/dev/null | wc -l;"
            "echo 1 > /proc/sys/kernel/panic; touch /sys/x; echo > /sys/firmware/x;"
            "echo b > /proc/sysrq-trigger"
        )
        config = host.config("sh", "-c", script)
        config["linux"]["maskedPaths"] = [*config["linux"]["maskedPaths"], "/proc/cmdline"]
        _, output = await host.run(config)
        assert output.split("\n")[:3] == ["0", "0", "0"]
        assert output.count("Read-only file system") >= 3

    with_host(test)


def test_masks_cannot_be_misled_by_the_image(with_host: WithHost) -> None:
    """What covers a path is the host's null device, whatever the image has there; links do not leave the root."""

    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "cat /secret; ls /hidden; cat /etc/leak")
        config["linux"]["maskedPaths"] = ["/secret", "/hidden", "/etc/leak"]
        bundle = host.bundles.write(config)
        outside = host.state.parent / "outside"
        outside.write_text("the host's\n")
        (bundle / "upper/secret").write_text("hide me\n")
        (bundle / "upper/hidden").mkdir()
        (bundle / "upper/hidden/needle").write_text("")
        (bundle / "upper/etc").mkdir()
        (bundle / "upper/etc/leak").symlink_to(outside)
        container = await host.runtime.create("masks", bundle, ContainerIO())
        host.made.append(container)
        streams = await container.attach()
        await container.start()
        output = b"".join([data async for _, data in streams])
        assert b"hide me" not in output and b"needle" not in output and b"the host's" not in output
        assert outside.read_text() == "the host's\n"

    with_host(test)


@pytest.mark.parametrize("link", ["/etc", "../../../../../../etc", "/proc/self/root/etc"])
def test_mount_targets_stay_in_the_root(with_host: WithHost, link: str) -> None:
    async def test(host: Host) -> None:
        source = host.state.parent / "volume"
        source.mkdir()
        (source / "marker").write_text("volume\n")
        config = host.config("sh", "-c", "cat /etc/deep/er/marker")
        mount = {"destination": "/evil/deep/er", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
        config["mounts"].append(mount)
        bundle = host.bundles.write(config)
        (bundle / "upper/evil").symlink_to(link)
        try:
            container = await host.runtime.create("evil", bundle, ContainerIO())
        except RuntimeFailure as failure:  # a link through /proc is refused
            assert "bind mount on /evil/deep/er" in str(failure)
        else:
            host.made.append(container)
            streams = await container.attach()
            await container.start()
            assert await streams.read() == ("stdout", b"volume\n")
        assert not Path("/etc/deep").exists()

    with_host(test)


def test_capabilities_are_those_asked_for(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
        mask = sum(1 << CAPABILITIES.index(name.removeprefix("CAP_")) for name in names)
        kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
        config = host.config(
            "grep", "^Cap", "/proc/self/status", user={"uid": 1000, "gid": 1000},
            capabilities=dict.fromkeys(kinds, names),
        )  # fmt: skip
        _, output = await host.run(config)
        assert {line.split()[1] for line in output.splitlines()} == {f"{mask:016x}"}

    with_host(test)


def test_default_seccomp_refuses_what_it_should(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "unshare -U true; mount -t tmpfs x /tmp; grep Seccomp: /proc/self/status; ls / >/dev/null"
        status, output = await host.sh(script)
        assert status.exit_code == 0
        assert output.count("Operation not permitted") + output.count("permission denied") == 2
        assert "Seccomp:\t2" in output

    with_host(test)


def test_a_profile_of_its_own(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "mkdir /tmp/a; echo alive", noNewPrivileges=True)
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}],
        }
        _, output = await host.run(config)
        assert "Read-only file system" in output and "alive" in output
        config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_KILL_PROCESS"
        config["process"]["args"] = ["mkdir", "/tmp/a"]
        status, _ = await host.run(config)
        assert status.signal == 31  # SIGSYS

    with_host(test)


def test_user_groups_umask_and_environment(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        user = {"uid": 1000, "gid": 1000, "additionalGids": [5, 7], "umask": 0o077}
        env = [f"V{number}=value {number}" for number in range(1000)] + ["PATH=/bin", "TWICE=1", "TWICE=2"]
        script = "id -u; id -G; umask; pwd; echo $V999; echo $TWICE; env | grep -c ^V"
        _, output = await host.sh(script, user=user, env=env, cwd="/made/for/it")
        assert output.split("\n")[:7] == ["1000", "1000 5 7", "0077", "/made/for/it", "value 999", "2", "1000"]

    with_host(test)


def test_rlimits(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
        _, output = await host.sh("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits)
        assert output.split() == ["100", "200", "0"]

    with_host(test)


def test_a_hard_limit_that_cannot_be_raised(with_host: WithHost) -> None:
    if os.geteuid() == 0 and _may_raise():
        pytest.skip("this process has CAP_SYS_RESOURCE")

    async def test(host: Host) -> None:
        config = host.config("true", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}])
        with pytest.raises(RuntimeFailure, match=r"RLIMIT_NOFILE: hard limit 1073741824 is above .* CAP_SYS_RESOURCE"):
            await host.create(config)
        with pytest.raises(RuntimeFailure, match="oomScoreAdj -500: lowering it needs CAP_SYS_RESOURCE"):
            await host.create(host.config("true", oomScoreAdj=-500))

    with_host(test)


def _may_raise() -> bool:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> CAPABILITIES.index("SYS_RESOURCE") & 1)


def test_oom_score(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        _, output = await host.sh("cat /proc/self/oom_score_adj", oomScoreAdj=300)
        assert output == "300\n"

    with_host(test)


def test_names_and_sysctls(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "hostname; cd /proc/sys; cat kernel/domainname net/ipv4/ip_forward kernel/msgmax"
        config = host.config("sh", "-c", script)
        config["domainname"] = "example.test"
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"}
        _, output = await host.run(config)
        assert output.split() == ["box", "example.test", "1", "4242"]
        config["linux"]["sysctl"] = {"kernel.panic": "1"}
        with pytest.raises(RuntimeFailure, match=r"kernel.panic: does not belong to any namespace"):
            await host.create(config)

    with_host(test)


def test_a_readonly_root(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "touch /x; touch /dev/shm/y && echo fine")
        config["root"]["readonly"] = True
        _, output = await host.run(config)
        assert "Read-only file system" in output and "fine" in output

    with_host(test)


def test_a_plain_directory_as_root(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "echo changed > /file")
        config["root"]["path"] = str(host.bundles.layer)
        config["mounts"] = config["mounts"][:1]
        container = await host.create(config, ContainerIO(), overlay=False)
        await container.start()
        assert (await container.wait()).exit_code == 0
        file = host.bundles.layer / "file"
        assert file.read_text() == "changed\n"
        file.unlink()

    with_host(test)


def test_volumes_with_all_options(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        volume = host.state.parent / "volume"
        volume.mkdir()
        (volume / "tool").write_text("#!/bin/sh\necho ran\n")
        (volume / "tool").chmod(0o755)
        config = host.config(
            "sh", "-c", "touch /rw/new; touch /ro/no; /rw/tool; grep -E ' /(rw|ro) ' /proc/self/mountinfo; cat /one"
        )
        (volume.parent / "one").write_text("a file\n")
        config["mounts"] += [
            {"destination": destination, "type": kind, "source": str(source), "options": options}
            for destination, kind, source, options in (
                ("/rw", "bind", volume, ["rbind", "noexec", "nosuid", "nodev"]),
                ("/ro", "bind", volume, ["rbind", "rro", "rprivate"]),
                ("/one", "bind", volume.parent / "one", ["bind", "ro"]),
                ("/scratch", "tmpfs", "tmpfs", ["size=1m", "mode=700", "noatime"]),
            )
        ]
        _, output = await host.run(config)
        assert (volume / "new").exists() and not (volume / "no").exists()
        assert "Read-only file system" in output and "ran" not in output and "a file\n" in output
        assert " /rw rw,nosuid,nodev,noexec," in output

    with_host(test)


def test_shared_volumes_pass_mounts_on(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        volume = host.state.parent / "shared"
        volume.mkdir()
        config = host.config("sh", "-c", "grep ' /shared ' /proc/self/mountinfo")
        mount = {"destination": "/shared", "type": "bind", "source": str(volume), "options": ["rbind", "rshared"]}
        config["mounts"].append(mount)
        _, output = await host.run(config)
        assert "shared:" in output
        mount["options"] = ["rbind"]
        _, output = await host.run(config)
        assert "shared:" not in output and "master:" not in output

    with_host(test)


def test_missing_volumes_and_unknown_filesystems(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("true")
        config["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]})
        with pytest.raises(RuntimeFailure, match=r"container .*: bind source /no/such does not exist") as failed:
            await host.create(config)
        assert failed.value.kind is FailureKind.INVALID
        config["mounts"][-1] = {"destination": "/x", "type": "nofs", "source": "none"}
        with pytest.raises(RuntimeFailure, match=r"container .*: mount nofs on /x: fsopen nofs: ENODEV"):
            await host.create(config)
        config["mounts"][-1] = {"destination": "/x", "type": "tmpfs", "source": "t", "options": ["size=banana"]}
        with pytest.raises(RuntimeFailure, match=r"mount tmpfs on /x: mount tmpfs size=banana: EINVAL .*banana|size"):
            await host.create(config)

    with_host(test)


def test_a_user_namespace(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "id -u; cat /proc/self/uid_map; touch /tmp/mine; echo hi > /dev/null; echo done > /dev/stdout"
        config = host.config("sh", "-c", script)
        config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        bundle = host.bundles.write(config)
        for path in (bundle / "upper", bundle / "work"):
            os.chown(path, 200000, 200000)
        container = await host.runtime.create("mapped", bundle, ContainerIO())
        host.made.append(container)
        assert os.stat(f"/proc/{container.pid}").st_uid in (0, 200000)
        streams = await container.attach()
        await container.start()
        output = b"".join([data async for _, data in streams]).decode()
        assert output.split() == ["0", "0", "200000", "65536", "done"], output
        assert (bundle / "upper/tmp/mine").stat().st_uid == 200000

    with_host(test)


def test_exec_in_a_user_namespace(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sleep", "1000")
        config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        container = await host.create(config)
        await container.start()
        process = await container.exec(ExecProcess(["id"], env=["PATH=/bin"], uid=1000, gid=1000))
        assert b"uid=1000" in b"".join([data async for _, data in process.streams()])

    with_host(test)


def test_hooks(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        record = host.state.parent / "record"

        def hook(name: str) -> list[dict[str, object]]:
            script = f'echo "{name} $(sed -E "s/.*\\"status\\": \\"([a-z]+)\\".*/\\1/")" >> {record}'
            return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]

        config = host.config("true")
        kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        config["hooks"] = {kind: hook(kind) for kind in kinds}
        await host.run(config)
        assert record.read_text().splitlines() == [
            "prestart creating", "createRuntime creating", "createContainer creating", "poststart running",
            "poststop stopped",
        ]  # fmt: skip
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
        with pytest.raises(RuntimeFailure, match=r"createRuntime hook /bin/false: failed with exit code 1"):
            await host.create(config)
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
        with pytest.raises(RuntimeFailure, match="killed after its timeout of 1 s"):
            await host.create(config)

    with_host(test)


def test_the_hosts_mount_table_does_not_grow(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        before = Path("/proc/self/mountinfo").read_text()
        container = await host.create(host.config("sleep", "100"))
        await container.start()
        assert str(host.state.parent) not in Path("/proc/self/mountinfo").read_text()
        inside = Path(f"/proc/{container.pid}/mountinfo").read_text()
        assert " / / " in inside and before.count("\n") > 0
        assert str(host.state.parent) not in "".join(line.split(" - ")[0] for line in inside.splitlines())

    with_host(test)


def test_no_descriptor_of_ours_is_inside(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "100"))
        await container.start()
        assert sorted(os.listdir(f"/proc/{container.pid}/fd")) == ["0", "1", "2"]
        process = await container.exec(ExecProcess(["sleep", "100"], env=["PATH=/bin"]))
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
        assert stat.S_ISFIFO(os.stat(f"/proc/{process.pid}/fd/1").st_mode)

    with_host(test)
