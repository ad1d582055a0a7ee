"""The OCI bundle: what of a container's configuration reaches the kernel, and how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmpy.engine.config import ContainerConfig, HostConfig, Mount, NetworkingConfig, TmpfsOptions
from swarmpy.engine.hosts import hosts_file, resolv_conf
from swarmpy.engine.mounts import parse_binds, wanted_mounts
from swarmpy.engine.privileges import ALL_CAPABILITIES, capability_set, confinement
from swarmpy.engine.record import ContainerRecord, VolumeMount
from swarmpy.engine.seccomp import seccomp_profile
from swarmpy.engine.signals import parse_signal
from swarmpy.engine.spec import Facts, bundle_config
from swarmpy.engine.users import Identity, resolve_user
from swarmpy.errors import InvalidArgument, NotSupported

ROOT = Identity(0, 0, (), "/root")
FACTS = Facts(
    lower=[Path("/l2"), Path("/l1")], upper=Path("/u"), work=Path("/w"), identity=ROOT, hostname="box", files=(),
    devices=(), namespaces={}, available_capabilities=ALL_CAPABILITIES, shared_memory="",
    volume_paths={}, seccomp=None,
)  # fmt: skip


def record(config: ContainerConfig | None = None, host: HostConfig | None = None) -> ContainerRecord:
    config = config or ContainerConfig(cmd=("true",))
    return ContainerRecord("c" * 64, "name", 1, "sha256:0", "image", config, host or HostConfig(), NetworkingConfig())


def number(path: str) -> tuple[str, int, int]:
    return "b", 8, 0


def spec(config: ContainerConfig | None = None, host: HostConfig | None = None, facts: Facts = FACTS) -> dict[str, Any]:
    return bundle_config(record(config, host), facts, number)


def test_the_smallest_bundle() -> None:
    made = spec()
    assert made["process"]["args"] == ["true"]
    assert made["process"]["cwd"] == "/"
    assert made["process"]["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box", "HOME=/root",
    ]  # fmt: skip
    assert {item["type"] for item in made["linux"]["namespaces"]} == {"pid", "network", "ipc", "mount", "uts", "cgroup"}
    layers = json.loads(made["annotations"]["io.swarmpy.rootfs"])
    assert layers == {"lower": ["/l2", "/l1"], "upper": "/u", "work": "/w"}
    assert "/proc/kcore" in made["linux"]["maskedPaths"]
    assert made["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert set(made["linux"]["resources"]) == {"devices"}, "an unlimited container has no limits set"
    json.dumps(made)


def test_fourteen_capabilities_for_root_and_none_held_by_others() -> None:
    held = spec()["process"]["capabilities"]
    assert len(held["bounding"]) == 14
    assert held["effective"] == held["bounding"]
    other = spec(facts=replace(FACTS, identity=Identity(1000, 1000, (), "/")))["process"]["capabilities"]
    assert (other["effective"], other["permitted"], other["ambient"]) == ([], [], [])
    assert len(other["bounding"]) == 14


def test_adding_and_dropping_capabilities() -> None:
    def chosen(add: list[str], drop: list[str], privileged: bool = False) -> set[str]:
        return set(capability_set(add, drop, privileged=privileged, available=ALL_CAPABILITIES))

    assert chosen(["net_admin"], ["ALL"]) == {"CAP_NET_ADMIN"}
    assert "CAP_CHOWN" not in chosen([], ["CHOWN"])
    assert chosen(["ALL"], ["SYS_ADMIN"]) == set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}
    assert chosen([], ["ALL"], privileged=True) == set(ALL_CAPABILITIES)


def test_limits() -> None:
    limits = spec(host=HostConfig(memory=1 << 20, nano_cpus=1_500_000_000, pids_limit=50, cpuset_cpus="0"))
    resources = limits["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20, "swap": 2 << 20}
    assert resources["cpu"] == {"period": 100000, "quota": 150000, "cpus": "0"}
    assert resources["pids"] == {"limit": 50}


def test_privileged_sees_everything() -> None:
    made = spec(host=HostConfig(privileged=True))
    assert made["linux"]["maskedPaths"] == []
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in next(m for m in made["mounts"] if m["destination"] == "/sys")["options"]


def test_a_users_mount_takes_the_place_of_ours() -> None:
    host = HostConfig(mounts=(Mount("tmpfs", "", "/dev/shm", tmpfs=TmpfsOptions(1024)),))
    made = spec(host=host, facts=replace(FACTS, files=(("/etc/hosts", Path("/h")),)))
    shm = [mount for mount in made["mounts"] if mount["destination"] == "/dev/shm"]
    assert len(shm) == 1
    assert "size=1024" in shm[0]["options"]


def order_of(mount: VolumeMount, facts: Facts) -> list[str]:
    made = bundle_config(replace(record(), mounts=(mount,)), facts, number)["mounts"]
    return [str(item["destination"]) for item in made]


def test_what_lies_below_another_mount_comes_after_it() -> None:
    """A volume at /etc does not hide the container's own /etc/hosts; one at /dev takes all of /dev."""
    volume = VolumeMount("volume", "/v", "/etc", name="v")
    facts = replace(FACTS, files=(("/etc/hosts", Path("/h")),))
    order = order_of(volume, facts)
    assert order.index("/etc") < order.index("/etc/hosts")
    dev = VolumeMount("bind", "/dev", "/dev")
    assert [path for path in order_of(dev, FACTS) if path.startswith("/dev")] == ["/dev"]


def test_the_containers_own_files_are_read_only_with_its_root() -> None:
    made = spec(host=HostConfig(readonly_rootfs=True), facts=replace(FACTS, files=(("/etc/hosts", Path("/h")),)))
    assert "ro" in next(mount for mount in made["mounts"] if mount["destination"] == "/etc/hosts")["options"]


def test_with_the_hosts_names_it_has_none_of_its_own() -> None:
    assert "hostname" not in spec(host=HostConfig(uts_mode="host"), facts=replace(FACTS, namespaces={"uts": ""}))


def test_binds() -> None:
    bind, volume, anonymous = parse_binds(("/a/../b:/x:ro,z", "data:/y", "/z"))
    assert (bind.type, bind.source, bind.target, bind.read_only) == ("bind", "/b", "/x", True)
    assert (volume.type, volume.name, volume.target) == ("volume", "data", "/y")
    assert anonymous.anonymous
    for wrong in ("/a:b", "/a:/", "/a:/b:nonsense", "::", "/a:/b:ro:rw"):
        with pytest.raises(InvalidArgument):
            parse_binds((wrong,))


def test_who_wins_one_mount_point() -> None:
    config = ContainerConfig(volumes=("/data", "/other", "/scratch"))
    host = HostConfig(binds=("/host:/data",), tmpfs={"/scratch": ""})
    inherited = (VolumeMount("volume", "/v", "/data", name="v"), VolumeMount("volume", "/w", "/more", name="w"))
    chosen = {mount.target: mount for mount in wanted_mounts(config, host, inherited)}
    assert chosen["/data"].source == "/host"
    assert chosen["/more"].name == "w"
    assert chosen["/other"].anonymous
    assert "/scratch" not in chosen
    with pytest.raises(InvalidArgument, match="Duplicate"):
        wanted_mounts(config, HostConfig(binds=("/a:/x", "/b:/x")))


PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\nbroken line\n"
GROUP = "root:x:0:\nweb:x:34:\naudio:x:63:web,other\nvideo:x:44:web\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (0,), "/root")),
        ("web", Identity(33, 34, (34, 63, 44), "/var/www")),
        ("33", Identity(33, 34, (34, 63, 44), "/var/www")),
        ("web:audio", Identity(33, 63, (63,), "/var/www")),
        ("1234", Identity(1234, 0, (0,), "/")),
        ("1234:5678", Identity(1234, 5678, (5678,), "/")),
    ],
)
def test_users(user: str, expected: Identity) -> None:
    assert resolve_user(user, PASSWD, GROUP) == expected


def test_users_that_do_not_exist() -> None:
    for user in ("nobody", "web:nogroup", "4294967295"):
        with pytest.raises(InvalidArgument):
            resolve_user(user, PASSWD, GROUP)
    assert resolve_user("web:0", PASSWD, GROUP, ["video", "7"]).groups == (0, 44, 7)


def test_the_default_seccomp_profile_follows_the_capabilities() -> None:
    plain = seccomp_profile("default", (), "x86_64")
    admin = seccomp_profile("default", ("CAP_SYS_ADMIN",), "x86_64")
    assert plain is not None and admin is not None
    allowed = {name for rule in plain["syscalls"] if not rule.get("args") for name in rule["names"]}
    assert {"read", "execve", "openat2"} <= allowed
    assert not {"mount", "bpf", "kexec_load", "add_key", "init_module", "clone", "unshare", "reboot"} & allowed
    assert {"mount", "bpf", "clone"} <= {name for rule in admin["syscalls"] for name in rule["names"]}
    assert plain["defaultAction"] == "SCMP_ACT_ERRNO"
    assert seccomp_profile("unconfined", ()) is None


def test_a_profile_in_dockers_form() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        ],
    }
    made = seccomp_profile(profile, (), "x86_64")
    assert made is not None
    assert [rule["names"] for rule in made["syscalls"]] == [["read"]]
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_security_options() -> None:
    assert confinement(["no-new-privileges", "label=disable"]).no_new_privileges
    assert confinement(["seccomp=unconfined"]).seccomp == "unconfined"
    with pytest.raises(NotSupported, match="apparmor=strict"):
        confinement(["apparmor=strict"])
    with pytest.raises(InvalidArgument, match="JSON"):
        confinement(["seccomp={"])


def test_signals() -> None:
    assert [parse_signal(text, 15) for text in ("", "9", "kill", "SIGTERM", "RTMIN+3")] == [15, 9, 9, 15, 37]
    for wrong in ("SIGNOPE", "0", "99", "_dfl", "SIG_DFL"):
        with pytest.raises(InvalidArgument):
            parse_signal(wrong, 15)


def test_hosts_and_resolv_conf() -> None:
    hosts = hosts_file(["10.1.0.2"], "box", "example.org", ["db:10.1.0.9", "host:host-gateway"], "10.1.0.1")
    assert "10.1.0.2\tbox.example.org box\n" in hosts
    assert "10.1.0.9\tdb\n" in hosts
    assert "10.1.0.1\thost\n" in hosts
    text = "# comment\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a b\noptions ndots:2\n"
    assert resolv_conf(text, (), (), (), own_network=True) == "nameserver 9.9.9.9\nsearch a b\noptions ndots:2\n"
    assert "127.0.0.53" in resolv_conf(text, (), (), (), own_network=False)
    assert resolv_conf(text, ("1.1.1.1",), (".",), (), own_network=True) == "nameserver 1.1.1.1\noptions ndots:2\n"
