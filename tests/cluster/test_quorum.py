"""A swarm that lost its quorum for good goes on from one manager, told to."""

from __future__ import annotations

import pytest

from tests.cluster.swarm import Swarm, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (2, 1)


def test_force_new_cluster_after_quorum_loss(shared: Swarm) -> None:
    swarm = shared
    swarm.docker("service", "create", "-q", "--name", "web", "--replicas", "3", "-p", "8080:80", "web:1").ok()
    pids = swarm.container_pids("web")
    survivor, lost = swarm.managers
    swarm.lab.kill(lost, with_containers=True)
    until(lambda: swarm.docker("service", "ls", on=survivor).code != 0, "the quorum to be gone")
    swarm.docker("service", "create", "-d", "--name", "more", "web:1", on=survivor).refused("leader")
    swarm.seen(survivor, 8080, 2)

    swarm.docker("swarm", "init", "--force-new-cluster", "--advertise-addr", swarm.address(survivor)).ok()
    assert swarm.leader([survivor]) == survivor
    assert [service.name for service in swarm.api().services.list()] == ["web"]
    until(lambda: lost not in swarm.converged("web", 3).values(), "the lost host's task to run elsewhere")
    kept = {id_: where for id_, where in pids.items() if where[0] != lost}
    assert kept.items() <= swarm.container_pids("web").items(), "no container was touched"
    swarm.docker("service", "scale", "web=4").ok()
    for host in (survivor, *swarm.workers):
        swarm.seen(host, 8080, 4)
    gone = swarm.node(lost)["ID"]
    until(lambda: swarm.docker("node", "rm", "--force", gone).code == 0, "the lost manager to be removed")
