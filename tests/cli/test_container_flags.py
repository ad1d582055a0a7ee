"""Flags of `create` and `run`, as the configuration they make."""

from __future__ import annotations

import pytest

from swarmpy.cli.container import configuration


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


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"publish": ["web"]}, "--publish: 'web'"),
        ({"restart": "on-failure:x"}, "--restart: 'on-failure:x'"),
        ({"memory": "lots"}, "--memory: 'lots'"),
        ({"mount": ["type=bind"]}, "--mount"),
    ],
)
def test_a_refusal_names_its_flag(given: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        configuration("web:1", None, given, attach=False)
