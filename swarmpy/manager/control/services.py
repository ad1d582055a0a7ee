"""Writes to services. Each function reads the store, checks, and returns the transaction that does it.

Source  Docker Engine API: POST /services/create, POST /services/{id}/update, DELETE /services/{id}.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.manager.control.specs import check_service, port_label
from swarmpy.manager.store import Store, Transaction, template_of
from swarmpy.rpc.types_pb2 import Meta, PortConfig, Service, ServiceSpec, UpdateStatus

__all__ = ["CheckRunnable", "create_service", "remove_service", "update_service"]

CheckRunnable = Callable[[ServiceSpec], None]
"""Raises InvalidArgument or NotSupported for a service whose tasks every node would reject."""


def create_service(
    store: Store, id_: str, spec: ServiceSpec, check_runnable: CheckRunnable
) -> tuple[Service, Transaction]:
    """A new service. Conflict when the name is taken; InvalidArgument or NotSupported when spec or port cannot be."""
    check_service(spec)
    check_runnable(spec)
    taken = store.services.by_name(spec.annotations.name)
    if taken is not None:
        raise Conflict(f"name conflicts with an existing object: service {spec.annotations.name} already exists")
    check_ports_free(store, id_, spec)
    template = template_of(spec.task)
    service = Service(id=id_, spec=spec, spec_version=1, template_id=template.id)
    transaction = Transaction()
    transaction.put(service, template)
    return service, transaction


def update_service(
    store: Store, id_: str, version: int, spec: ServiceSpec | None, now_ns: int, check_runnable: CheckRunnable
) -> Transaction:
    """Replace the spec; with `spec=None` return to the previous one.

    Conflict when the spec was changed after `version`; InvalidArgument or NotSupported when the new spec is not
    possible, when it renames the service or changes its mode, or when there is no previous spec.
    """
    service = store.services[id_]
    check_spec_unchanged(service.meta, version, f"service {service.spec.annotations.name}")
    changed = Service()
    changed.CopyFrom(service)
    if spec is None:
        if not service.HasField("previous_spec"):
            raise InvalidArgument(f"service {service.spec.annotations.name} does not have a previous spec")
        changed.spec.CopyFrom(service.previous_spec)
        changed.update_status.CopyFrom(
            UpdateStatus(
                state=UpdateStatus.ROLLBACK_STARTED, started_ns=now_ns, message="manually requested rollback"
            )
        )
    else:
        check_service(spec)
        check_runnable(spec)
        if spec.annotations.name != service.spec.annotations.name:
            raise InvalidArgument(
                f"Name: service {service.spec.annotations.name} cannot be renamed to {spec.annotations.name}"
            )
        changed.spec.CopyFrom(spec)
        changed.ClearField("update_status")
    check_ports_free(store, id_, changed.spec)
    changed.previous_spec.CopyFrom(service.spec)
    changed.spec_version = service.spec_version + 1
    template = template_of(changed.spec.task)
    changed.template_id = template.id
    transaction = Transaction()
    transaction.put(changed, template)
    return transaction


def remove_service(store: Store, id_: str) -> Transaction:
    """The orchestrator ends the tasks of a service that is gone."""
    transaction = Transaction()
    transaction.remove(store.services[id_])
    return transaction


def check_version(present: int, given: int, what: str) -> None:
    """Conflict unless the request was made for the present version."""
    if present != given:
        raise Conflict(f"update out of sequence: {what} is at version {present}, the request was made for {given}")


def check_spec_unchanged(meta: Meta, given: int, what: str) -> None:
    """Conflict when the spec was changed after version `given` was read.

    Nodes and services are written to by the swarm all the time: that a node became ready or an update went on is no
    reason to refuse what a user who read the same spec asks for.
    """
    if not (meta.spec_index or meta.version) <= given <= meta.version:
        check_version(meta.version, given, what)


def check_ports_free(store: Store, id_: str, spec: ServiceSpec) -> None:
    """No two services publish one port in ingress mode, nor one in ingress and one in host mode."""
    wanted = {
        (port.protocol, port.published_port): port for port in spec.endpoint.ports if port.published_port
    }
    if not wanted:
        return
    for other in store.services.values():
        if other.id == id_:
            continue
        for port in (*other.spec.endpoint.ports, *other.endpoint.ports):
            mine = wanted.get((port.protocol, port.published_port))
            if mine is None or (mine.publish_mode == port.publish_mode == PortConfig.HOST):
                continue
            raise InvalidArgument(
                f"EndpointSpec.Ports: port {port_label(port)} is already in use by service "
                f"{other.spec.annotations.name} ({other.id})"
            )
