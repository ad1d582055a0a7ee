"""What control refuses, and how the refusal reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.manager.control.specs import check_cluster, check_service
from swarmpy.rpc.types_pb2 import ClusterSpec, PortConfig, ServiceSpec, UpdateConfig


def web() -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = "web"
    spec.task.container.image = "web:1"
    spec.mode.replicated.replicas = 3
    return spec


def test_an_ordinary_service_passes() -> None:
    spec = web()
    spec.endpoint.ports.add(target_port=80, published_port=8080)
    spec.task.container.mounts.add(type="tmpfs", target="/tmp")
    spec.task.resources.limits.memory_bytes = 64 << 20
    check_service(spec)


def unnamed(spec: ServiceSpec) -> None:
    spec.annotations.name = ""


def bad_name(spec: ServiceSpec) -> None:
    spec.annotations.name = "-web"


def no_image(spec: ServiceSpec) -> None:
    spec.task.container.image = ""


def nameless_variable(spec: ServiceSpec) -> None:
    spec.task.container.env.append("=1")


def small_memory(spec: ServiceSpec) -> None:
    spec.task.resources.limits.memory_bytes = 4096


def reservation_over_limit(spec: ServiceSpec) -> None:
    spec.task.resources.limits.nano_cpus = 10**9
    spec.task.resources.reservations.nano_cpus = 2 * 10**9


def port_twice(spec: ServiceSpec) -> None:
    for _ in range(2):
        spec.endpoint.ports.add(target_port=80, published_port=8080)


def port_out_of_range(spec: ServiceSpec) -> None:
    spec.endpoint.ports.add(target_port=70000)


def ratio_over_one(spec: ServiceSpec) -> None:
    spec.update.max_failure_ratio = 2


def rollback_of_rollback(spec: ServiceSpec) -> None:
    spec.rollback.failure_action = UpdateConfig.ROLLBACK


def dns_with_ingress(spec: ServiceSpec) -> None:
    spec.endpoint.mode = "dnsrr"
    spec.endpoint.ports.add(target_port=80)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (unnamed, "Name"),
        (bad_name, "Name"),
        (no_image, "TaskTemplate.ContainerSpec.Image"),
        (nameless_variable, "TaskTemplate.ContainerSpec.Env"),
        (small_memory, "TaskTemplate.Resources.Limits.MemoryBytes"),
        (reservation_over_limit, "TaskTemplate.Resources"),
        (port_twice, "EndpointSpec.Ports"),
        (port_out_of_range, "EndpointSpec.Ports"),
        (ratio_over_one, "UpdateConfig.MaxFailureRatio"),
        (rollback_of_rollback, "RollbackConfig.FailureAction"),
        (dns_with_ingress, "EndpointSpec"),
    ],
)
def test_a_refusal_names_its_field(change: Callable[[ServiceSpec], None], field: str) -> None:
    spec = web()
    change(spec)
    with pytest.raises(InvalidArgument) as refusal:
        check_service(spec)
    assert str(refusal.value).startswith(field)


def test_what_is_not_there_yet_says_so() -> None:
    spec = web()
    spec.endpoint.ports.add(target_port=80, protocol=PortConfig.SCTP)
    with pytest.raises(NotSupported, match="sctp"):
        check_service(spec)


def test_certificates_live_an_hour_at_least() -> None:
    spec = ClusterSpec()
    spec.ca.node_cert_expiry_ns = 10
    with pytest.raises(InvalidArgument, match=r"CAConfig\.NodeCertExpiry"):
        check_cluster(spec)
