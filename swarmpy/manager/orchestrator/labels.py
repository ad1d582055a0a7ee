"""The labels of its service that a task carries, for placeholders such as `{{.Service.Labels.tier}}`. Pure.

Source  Docker documentation, "docker service create", section "Create services using templates".
"""

from __future__ import annotations

from collections.abc import Mapping

from swarmpy.rpc.types_pb2 import Service, TaskSpec

__all__ = ["labels_for"]

_PLACEHOLDER = ".Service.Labels"


def labels_for(service: Service, spec: TaskSpec) -> Mapping[str, str]:
    """The labels if the spec asks for one, else none: most tasks need not carry them."""
    container = spec.container
    texts = [container.hostname, *container.env]
    for mount in container.mounts:
        texts += [mount.source, mount.target, *mount.volume_labels.values()]
    return service.spec.annotations.labels if any(_PLACEHOLDER in text for text in texts) else {}
