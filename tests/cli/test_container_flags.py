"""Flags of `create` and `run`, as the configuration they make."""

from __future__ import annotations

import pytest

from swarmpy.cli.creation import configuration


def test_run_fills_the_configuration() -> None:
    body = configuration(
        "web:1", ["sh", "-c", "id"],
        {"interactive": True, "env": ["A=1"], "publish": ["127.0.0.1:8080:80", "53/udp"], "memory": "16m",
         "cpus": "0.5",
         "restart": "on-failure:3", "rm": True, "volume": ["/srv:/data:ro"], "label": ["a=b"]},
        attach=True,
    )  # fmt: skip
    host = body["HostConfig"]
    assert body["Cmd"] == ["sh", "-c", "id"]
    assert body["StdinOnce"] and body["AttachStdin"] and body["AttachStdout"]
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "53/udp": [{"HostIp": "", "HostPort": ""}],
    }
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert host["Memory"] == 16 << 20 and host["NanoCpus"] == 500_000_000
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["AutoRemove"] and host["Binds"] == ["/srv:/data:ro"] and body["Labels"] == {"a": "b"}


def test_detached_it_joins_nothing() -> None:
    body = configuration("web:1", None, {"interactive": True}, attach=False)
    assert not body["AttachStdout"] and "AttachStdin" not in body and "Cmd" not in body


def test_the_rest_of_the_configuration() -> None:
    body = configuration(
        "web:1", None,
        {"mount": ["type=volume,src=v,dst=/v"], "tmpfs": ["/run:size=1m", "/tmp"],
         "expose": ["80", "90-91/udp"], "device": ["/dev/null:/dev/x:r"],
         "device_read_bps": ["/dev/null:1mb"], "sysctl": ["net.core.somaxconn=7"], "ulimit": ["nofile=1:2"],
         "security_opt": ["no-new-privileges", "systempaths=unconfined"], "memory_swap": "-1", "shm_size": "1m",
         "dns": ["192.0.2.1"], "add_host": ["db:192.0.2.2"], "init": True, "uts": "host", "health_cmd": "true",
         "annotation": ["a=b"], "publish_all": True, "stop_timeout": 3, "cpuset_cpus": "0"},
        attach=False,
    )  # fmt: skip
    host = body["HostConfig"]
    assert host["Mounts"] == [{"Type": "volume", "Source": "v", "Target": "/v"}]
    assert host["Tmpfs"] == {"/run": "size=1m", "/tmp": ""}
    assert set(body["ExposedPorts"]) == {"80/tcp", "90/udp", "91/udp"}
    assert host["Devices"][0]["PathInContainer"] == "/dev/x"
    assert host["BlkioDeviceReadBps"] == [{"Path": "/dev/null", "Rate": 1 << 20}]
    assert (host["SecurityOpt"], host["MaskedPaths"], host["ReadonlyPaths"]) == (["no-new-privileges"], [], [])
    assert (host["MemorySwap"], host["ShmSize"], host["UTSMode"], host["Init"]) == (-1, 1 << 20, "host", True)
    assert body["Healthcheck"] == {"Test": ["CMD-SHELL", "true"]} and body["StopTimeout"] == 3
    assert host["PublishAllPorts"] and host["Annotations"] == {"a": "b"} and host["CpusetCpus"] == "0"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gpus": ["all"]}, "--gpus is not supported"),
        ({"expose": ["http"]}, "--expose: 'http'"),
        ({"device": ["null"]}, "--device: 'null'"),
        ({"health_interval": "often"}, "--health-interval: 'often'"),
        ({"publish": ["web"]}, "--publish: 'web'"),
        ({"restart": "on-failure:x"}, "--restart: 'on-failure:x'"),
        ({"memory": "lots"}, "--memory: 'lots'"),
        ({"mount": ["type=bind"]}, "--mount"),
    ],
)
def test_a_refusal_names_its_flag(given: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        configuration("web:1", None, given, attach=False)
