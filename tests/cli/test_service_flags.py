"""Flags of `service create` and `service update`, as the spec they make of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.flags import apply
from swarmpy.cli.service_flags import CREATE, UPDATE


def created(**given: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}}
    apply(spec, CREATE, given)
    return spec


def test_what_is_not_given_changes_nothing() -> None:
    assert created() == {"TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}}


def test_create_fills_the_spec() -> None:
    spec = created(
        replicas=3, env=["A=1"], publish=["8080:80"], limit_memory="64m", constraint=["node.role==worker"],
        label=["tier=front"], update_parallelism=2, update_delay="1s", stop_grace_period="3s",
    )
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    assert spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    assert spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 3 * 10**9
    assert spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] == 64 << 20
    assert spec["TaskTemplate"]["Placement"]["Constraints"] == ["node.role==worker"]
    assert spec["Labels"] == {"tier": "front"}
    assert spec["UpdateConfig"]["Parallelism"] == 2
    assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8080


def test_update_adds_replaces_and_removes() -> None:
    spec = created(env=["A=1", "B=2"], label=["x=1"], publish=["8080:80"], mount=["type=tmpfs,target=/t"])
    apply(
        spec, UPDATE,
        {"env_add": ["A=3"], "env_rm": ["B"], "label_rm": ["x"], "publish_rm": ["80"], "publish_add": ["9090:90"],
         "mount_rm": ["/t"], "image": "web:2", "args": "-f -p 80"},
    )  # fmt: skip
    container = spec["TaskTemplate"]["ContainerSpec"]
    assert container["Env"] == ["A=3"]
    assert container["Image"] == "web:2"
    assert container["Args"] == ["-f", "-p", "80"]
    assert container["Mounts"] == []
    assert spec["Labels"] == {}
    assert [port["TargetPort"] for port in spec["EndpointSpec"]["Ports"]] == [90]


def test_an_option_that_is_not_there_yet_is_named() -> None:
    for flag in ("config", "credential_spec", "generic_resource", "max_concurrent", "network", "secret"):
        with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} is not supported"):
            created(**{flag: ["x"]})


def test_health_and_files(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\n")
    container = created(
        env=["A=flag"], env_file=[str(tmp_path / "env")], health_cmd="true", health_start_interval="500ms",
        health_retries=2, isolation="default", oom_score_adj=100, init=True,
    )["TaskTemplate"]["ContainerSpec"]  # fmt: skip
    assert container["Env"] == ["B=file", "A=flag"]
    assert container["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "StartInterval": 5 * 10**8, "Retries": 2}
    assert (container["Isolation"], container["OomScoreAdj"], container["Init"]) == ("default", 100, True)
    assert created(no_healthcheck=True)["TaskTemplate"]["ContainerSpec"]["Healthcheck"] == {"Test": ["NONE"]}


def test_a_bad_preference_names_its_flag() -> None:
    with pytest.raises(ValueError, match="--placement-pref"):
        created(placement_pref=["rack"])
