"""Services whose image lies in a registry that asks who is pulling."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.swarm import Outcome, Swarm, get, until
from tests.image.conftest import HTPASSWD

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (1, 1)
REGISTRY = "127.0.0.1:5000"             # each host's own: plain HTTP is for loopback alone
IMAGE = f"{REGISTRY}/secret/web:1"
CREDENTIALS = "tester:open sesame"
SERVICE = ("--name", "web", "--replicas", "2", "-p", "8080:80", IMAGE)


@pytest.fixture(scope="module", autouse=True)
def registries(shared: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On every host, over the same files, with the image."""
    place = tmp_path_factory.mktemp("registry")
    (place / "htpasswd").write_text(HTPASSWD)
    (place / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {place / 'data'}}}}}\n"
        f"http: {{addr: '{REGISTRY}', secret: not-a-secret}}\n"
        f"auth: {{htpasswd: {{realm: here, path: {place / 'htpasswd'}}}}}\n"
    )
    archive = place / "web.tar"
    with archive.open("wb") as file:
        file.writelines(shared.api().images.get("web:1").save(named=True))
    with ExitStack() as stack:
        for host in shared.hosts:
            stack.enter_context(registry(shared, host, place))
        copy = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", CREDENTIALS]

        def pushed() -> bool:
            return shared.inside(shared.hosts[0], *copy, f"docker-archive:{archive}", f"docker://{IMAGE}").code == 0

        until(pushed, "the registry to take the image")
        yield


def registry(swarm: Swarm, host: str, place: Path) -> ExitStack:
    """A registry that ends with the block."""
    argv = swarm.lab.host(host).command(["docker-registry", "serve", str(place / "config.yml")])
    with (place / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
    stack = ExitStack()
    stack.callback(process.wait)
    stack.callback(process.kill)
    return stack


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `docker login`."""
    auths = {REGISTRY: {"auth": base64.b64encode(CREDENTIALS.encode()).decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def command(swarm: Swarm, client: str, *words: str) -> Outcome:
    return swarm.docker(*words) if client == "docker" else swarm.swarmpy(*words)


@pytest.mark.parametrize("client", ["docker", "swarmpy"])
def test_nodes_pull_with_the_credentials_of_the_client(swarm: Swarm, client: str, logged_in: None) -> None:
    for host in swarm.hosts:
        swarm.docker("image", "rm", "-f", IMAGE, on=host)
    command(swarm, client, "service", "create", "-d", "--with-registry-auth", *SERVICE).ok()
    assert set(swarm.converged("web", 2).values()) == set(swarm.hosts)
    for host in swarm.hosts:
        assert get(swarm.address(host), 8080)
    shown = swarm.docker("service", "inspect", "web").ok() + swarm.docker("inspect", *swarm.running("web")).ok()
    assert "sesame" not in shown and base64.b64encode(CREDENTIALS.encode()).decode() not in shown

    for host in swarm.hosts:
        swarm.docker("image", "rm", "-f", IMAGE, on=host)
    command(swarm, client, "service", "update", "-d", "--force", "web").ok()
    until(lambda: swarm.docker("service", "inspect", "-f", "{{.UpdateStatus.State}}", "web").ok() == "completed", "it")
    assert set(swarm.converged("web", 2).values()) == set(swarm.hosts), "kept for the tasks that come later"


def test_without_credentials_its_tasks_say_why_they_do_not_run(swarm: Swarm) -> None:
    for host in swarm.hosts:
        swarm.docker("image", "rm", "-f", IMAGE, on=host)
    swarm.docker("service", "create", "-d", *SERVICE).ok()

    def rejected() -> list[str]:
        return [task["Status"]["Err"] for task in swarm.tasks("web") if task["Status"]["State"] == "rejected"]

    until(rejected, "a task that was refused by the registry")
    assert f"pull access denied for {REGISTRY}/secret/web" in rejected()[0]
