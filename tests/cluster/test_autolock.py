"""Autolock through the docker client, docker-py and the swarmpy command: managers whose disks open with a key alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docker.errors import APIError

from tests.cluster.swarm import Outcome, Swarm, docker_clients, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (3, 1)
KEY = re.compile(r"SWMKEY-1-[A-Za-z0-9+/]{43}")
KEY_FILE = "data.keys"


def state(swarm: Swarm, host: str) -> str:
    return str(swarm.api(host).info()["Swarm"]["LocalNodeState"])


def restart(swarm: Swarm, host: str) -> None:
    swarm.lab.stop(host)
    swarm.lab.start(host)


def unlock(swarm: Swarm, host: str, key: str, client: Path | None = None) -> Outcome:
    return swarm.docker("swarm", "unlock", on=host, client=client, stdin=key + "\n")


def locks(swarm: Swarm, host: str) -> bool:
    """Whether the host would start locked. Looks at the disk, as a thief would."""
    kept = (swarm.lab.plan.data_dir / host / "swarm" / "certificates" / KEY_FILE).read_bytes()
    return b'"sealed"' in kept


def key_of(text: str) -> str:
    found = KEY.search(text)
    assert found is not None, text
    return found.group()


def test_managers_are_locked_unlocked_and_given_a_new_key(swarm: Swarm) -> None:
    first, second, third = swarm.managers
    swarm.docker("service", "create", "-q", "--name", "web", "--replicas", "4", "-p", "8080:80", "web:1").ok()
    assert "no unlock key is set" in swarm.docker("swarm", "unlock-key").refused()
    key = key_of(swarm.docker("swarm", "update", "--autolock").ok())
    assert swarm.docker("swarm", "unlock-key", "-q", on=second).ok() == key
    assert swarm.swarmpy("swarm", "unlock-key", "-q").ok() == key
    assert swarm.api(third).swarm.get_unlock_key() == {"UnlockKey": key}
    until(lambda: all(locks(swarm, host) for host in swarm.managers), "all managers to keep their disks locked")
    assert not any(locks(swarm, host) for host in swarm.workers)
    unlock(swarm, first, key).refused("not locked")

    # One manager starts anew. Its containers go on, it says what it needs, and nothing is lost by a wrong key.
    swarm.converged("web", 4)
    own = {id_ for id_, (host, _) in swarm.container_pids("web").items() if host == third}
    restart(swarm, third)
    assert state(swarm, third) == "locked"
    assert own <= {container.id for container in swarm.api(third).containers.list()}
    assert "Swarm: locked" in swarm.docker("info", on=third).ok()
    swarm.docker("node", "ls", on=third).refused("encrypted", "swarm unlock")
    with pytest.raises(APIError, match="encrypted") as refused:
        swarm.api(third).swarm.get_unlock_key()
    assert refused.value.status_code == 503
    swarm.docker("swarm", "leave", on=third).refused("locked", "--force")
    assert "not the key" in unlock(swarm, third, "SWMKEY-1-" + "A" * 43).refused()
    with pytest.raises(APIError, match="SWMKEY-1-") as refused:
        swarm.api(third).swarm.unlock("nonsense")
    assert refused.value.status_code == 400
    assert state(swarm, third) == "locked"
    unlock(swarm, third, key).ok()
    until(lambda: state(swarm, third) == "active", "the manager to be back")
    until(lambda: swarm.docker("node", "ls", on=third).code == 0, "it to answer for the swarm")
    swarm.converged("web", 4)

    # A new key opens what has heard of it; a manager that was down opens with the old one.
    swarm.lab.stop(third)
    rotated = key_of(swarm.docker("swarm", "unlock-key", "--rotate", on=second).ok())
    assert rotated != key
    restart(swarm, second)
    assert "not the key" in unlock(swarm, second, key).refused()
    assert swarm.swarmpy("swarm", "unlock", on=second, stdin=rotated + "\n").code == 0
    swarm.lab.start(third)
    assert "not the key" in unlock(swarm, third, rotated).refused()
    assert swarm.api(third).swarm.unlock(key)
    until(lambda: state(swarm, second) == state(swarm, third) == "active", "both to be back")
    restart(swarm, third)
    for client in docker_clients():
        if state(swarm, third) == "locked":
            unlock(swarm, third, rotated, client).ok()
        else:
            unlock(swarm, third, rotated, client).refused("not locked")
    until(lambda: state(swarm, third) == "active", "the new key to do")

    # The key is nowhere but where it is asked for.
    for text in (
        swarm.docker("info").ok(),
        swarm.docker("info", "--format", "{{json .}}").ok(),
        *(swarm.lab.log(host).read_text() for host in swarm.hosts),
    ):
        assert KEY.search(text) is None
    swarm.docker("swarm", "update", "--autolock=false").ok()
    assert swarm.api().swarm.get_unlock_key() == {"UnlockKey": ""}
    until(lambda: not any(locks(swarm, host) for host in swarm.managers), "no manager to lock its disk")
    restart(swarm, first)
    until(lambda: state(swarm, first) == "active", "a manager to be back by itself")


def test_a_swarm_begins_locked(swarm: Swarm) -> None:
    """A host of its own leaves the lab's swarm, and comes back to it at the end."""
    token = swarm.docker("swarm", "join-token", "-q", "worker").ok()
    gone = swarm.node("worker1")["ID"]
    swarm.docker("swarm", "leave", on="worker1").ok()
    address = swarm.address("worker1")
    init = swarm.docker("swarm", "init", "--autolock", "--advertise-addr", address, on="worker1").ok()
    swarm.docker("service", "create", "-q", "--name", "own", "-p", "8081:80", "web:1", on="worker1").ok()
    swarm.seen("worker1", 8081, 1)
    swarm.lab.kill("worker1")
    swarm.lab.start("worker1")
    assert state(swarm, "worker1") == "locked"
    assert len(swarm.seen("worker1", 8081, 1)) == 1, "the container of the service goes on, and its port"
    unlock(swarm, "worker1", key_of(init)).ok()
    until(lambda: swarm.docker("service", "ls", on="worker1").code == 0, "it to manage again")
    assert [service.name for service in swarm.api("worker1").services.list()] == ["own"]
    assert len(swarm.running("own", "worker1")) == 1
    restart(swarm, "worker1")
    assert state(swarm, "worker1") == "locked"
    assert swarm.docker("ps", "-q", on="worker1").ok()
    swarm.docker("swarm", "leave", "--force", on="worker1").ok()
    assert not swarm.docker("ps", "-aq", on="worker1").ok(), "what was the swarm's is gone"
    assert state(swarm, "worker1") == "inactive"
    listen = ("--advertise-addr", address, "--listen-addr", f"{address}:2377")
    swarm.docker("swarm", "join", *listen, "--token", token, f"{swarm.address('manager1')}:2377", on="worker1").ok()
    until(lambda: swarm.docker("node", "rm", "--force", gone).code == 0, "the node of before to be removed")
