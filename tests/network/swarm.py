"""What managers would do: a routing mesh on some hosts, told of tasks and services."""

from __future__ import annotations

from ipaddress import IPv4Interface

from swarmpy.network import Backend, IngressNetwork, MeshView, Peer, Port
from tests.network.topology import INGRESS, Container, Host, Namespace, ask

HTTP = Port("tcp", 8080, 80)
DNS = Port("udp", 5353, 53)


class Swarm:
    """Says to every host what a manager would. One service, `web`, unless the test says otherwise."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.tasks: dict[str, Backend] = {}
        self.services: dict[str, tuple[Port, ...]] = {"web": (HTTP, DNS)}
        self.containers: list[Container] = []
        self.apply()

    def view(self, host: Host) -> MeshView:
        address = IPv4Interface(f"{host.ingress}/{INGRESS.prefixlen}")
        return MeshView(
            node_id=host.name,
            ingress=IngressNetwork(INGRESS, 4096, address, host.address),
            peers={each.name: Peer(each.address, each.ingress) for each in self.hosts},
            services=dict(self.services),
            tasks=dict(self.tasks),
        )

    def apply(self) -> None:
        for host in self.hosts:
            host.call(host.mesh.apply(self.view(host)))

    def publish(self, **services: tuple[Port, ...]) -> None:
        """From now on these are the services."""
        self.services = services
        self.apply()

    def run(self, host: Host, name: str, number: int, service: str = "web") -> Container:
        """A task on `host`, known everywhere."""
        container = host.container(name, INGRESS[number])
        container.serve("tcp", 80)
        container.serve("udp", 53)
        self.containers.append(container)
        self.tasks[name] = Backend(service, host.name, INGRESS[number])
        self.apply()
        return container

    def withdraw(self, name: str) -> None:
        """A task gets no new connections."""
        del self.tasks[name]
        self.apply()

    def close(self) -> None:
        for container in self.containers:
            container.close()


def spread(namespace: Namespace, address: object, port: int = 8080, times: int = 30) -> set[str]:
    """Who answers."""
    return {ask(namespace, address, port) for _ in range(times)}
