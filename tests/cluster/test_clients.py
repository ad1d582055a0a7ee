"""The main path again with every docker client of the machine, docker-py, and the swarmpy command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from docker.errors import APIError, NotFound
from docker.types import EndpointSpec, ServiceMode

from tests.cluster.swarm import Outcome, Swarm, docker_clients, requests_in, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (1, 2)

Speak = Callable[..., Outcome]


@pytest.mark.parametrize("client", docker_clients(), ids=str)
def test_the_main_path_with_a_docker_client(swarm: Swarm, client: Path) -> None:
    def speak(*words: str, on: str = "") -> Outcome:
        return swarm.docker(*words, on=on, client=client)

    main_path(swarm, speak)
    containers_of_one_host(speak, swarm)


def test_the_main_path_with_the_swarmpy_command(swarm: Swarm) -> None:
    main_path(swarm, swarm.swarmpy)
    containers_of_one_host(swarm.swarmpy, swarm)


def main_path(swarm: Swarm, speak: Speak) -> None:
    """What a user of swarms types in the first hour."""
    brief = ("--update-monitor", "200ms", "--rollback-monitor", "200ms")  # how long the client watches, too
    speak("service", "create", "--name", "web", "--replicas", "3", "-p", "8080:80", *brief, "web:1").ok()
    for host in swarm.hosts:
        swarm.seen(host, 8080, 3)
    assert "3/3" in speak("service", "ls").ok()
    assert speak("service", "ps", "web").ok().count("Running") >= 3
    assert '"Name": "web"' in speak("service", "inspect", "web").ok()
    speak("service", "scale", "web=5").ok()
    assert "5/5" in speak("service", "ls").ok()
    with swarm.watched(8080) as prober:
        speak("service", "update", "--env-add", "A=1", "web").ok()
    prober.assert_unbroken(at_least=10)
    assert "A=1" in speak("service", "inspect", "web").ok()
    speak("service", "rollback", "web").ok()
    until(lambda: requests_in(speak("service", "logs", "web").err), "log lines")
    assert "worker1" in speak("node", "ls").ok()
    speak("node", "update", "--availability", "drain", "worker1").ok()
    until(lambda: "worker1" not in swarm.running("web").values(), "the node to be drained")
    assert '"Availability": "drain"' in speak("node", "inspect", "worker1").ok()
    speak("node", "update", "--availability", "active", "worker1").ok()
    assert "SWMTKN-1-" in speak("swarm", "join-token", "worker").ok()
    assert "active" in speak("info").ok()
    speak("version").ok()
    assert speak("service", "rm", "web").ok() == "web"
    speak("service", "create", "-d", "--mode", "global", "web:1").refused("Global")


def containers_of_one_host(speak: Speak, swarm: Swarm) -> None:
    """`run`, `exec`, `logs`, `stop`, `rm` on a worker, its daemon killed with -9 in between."""
    host = "worker2"
    script = "echo begun; while [ ! -e /tmp/enough ]; do sleep 0.05; done; echo enough; exit 7"
    speak("run", "-d", "--name", "one", "web:1", "sh", "-c", script, on=host).ok()
    assert "one" in speak("ps", on=host).ok()
    assert speak("exec", "one", "hostname", on=host).ok()
    pid = speak("inspect", "--format", "{{.State.Pid}}", "one", on=host)
    swarm.lab.kill(host)
    swarm.lab.start(host)
    assert speak("inspect", "--format", "{{.State.Pid}}", "one", on=host).out == pid.out
    assert speak("exec", "one", "sh", "-c", "> /tmp/enough", on=host).code == 0
    assert speak("wait", "one", on=host).ok() == "7"
    assert speak("logs", "one", on=host).ok().split() == ["begun", "enough"]
    speak("start", "one", on=host).ok()
    speak("stop", "-t", "1", "one", on=host)
    speak("rm", "-f", "one", on=host).ok()
    assert "one" not in speak("ps", "-a", on=host).ok()
    assert "web" in speak("images", on=host).ok()
    until(lambda: swarm.ready(host), "the node to be ready again")


def test_the_main_path_with_docker_py(swarm: Swarm) -> None:
    client = swarm.api()
    service = client.services.create(
        "web:1", name="web", mode=ServiceMode("replicated", replicas=3),
        endpoint_spec=EndpointSpec(ports={8080: 80}), env=["A=1"],
    )  # fmt: skip
    swarm.converged("web", 3)
    for host in swarm.hosts:
        swarm.seen(host, 8080, 3)
    assert [each.name for each in client.services.list()] == ["web"]
    service.reload()  # the swarm has given it addresses
    assert service.scale(4)
    swarm.converged("web", 4)
    service.reload()
    assert service.update(env=["A=2"])
    until(lambda: envs(swarm) == {"A=2"}, "all replicas to be updated", 60)
    assert len(client.nodes.list()) == 3
    assert requests_in(b"".join(service.logs(stdout=True, stderr=True)).decode())
    with pytest.raises(APIError) as failure:
        client.services.create("web:1", mode=ServiceMode("global"))
    assert failure.value.status_code == 501 and "Global" in str(failure.value)
    with pytest.raises(APIError) as failure:
        client.services.create("web:1", name="web")
    assert failure.value.status_code == 409
    service.remove()
    with pytest.raises(NotFound):
        client.services.get("web")

    output = client.containers.run("web:1", ["sh", "-c", "echo to stdout; echo to stderr >&2"], remove=True)
    assert output == b"to stdout\n"
    container = client.containers.run("web:1", detach=True, ports={"80/tcp": 9080})
    swarm.seen(swarm.managers[0], 9080, 1)
    assert container.exec_run(["sh", "-c", "exit 5"]).exit_code == 5
    assert container.stats(stream=False)["memory_stats"]["usage"] > 0
    container.stop(timeout=1)
    assert container.wait()["StatusCode"] == 137
    container.remove()


def envs(swarm: Swarm) -> set[str]:
    tasks = [task for task in swarm.tasks("web") if task["DesiredState"] == "running"]
    return {env for task in tasks for env in task["Spec"]["ContainerSpec"]["Env"]} if swarm.running("web") else set()
