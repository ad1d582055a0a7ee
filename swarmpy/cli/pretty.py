"""Services and nodes in words, as `inspect --pretty` shows them.

Source  docker service inspect, docker node inspect; Docker Engine API, Service and Node.
"""

from __future__ import annotations

from typing import Any

from swarmpy.cli.output import print_text

__all__ = ["print_node", "print_service"]

JSON = dict[str, Any]
NANO = 10**9
MIB = 2**20


def print_service(service: JSON) -> None:
    """What the service runs, how often, and how it is updated and reached."""
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    container = template.get("ContainerSpec", {})
    mode = next(iter(spec.get("Mode", {})), "Replicated")
    facts("", {"ID": service["ID"], "Name": spec["Name"]})
    pairs("Labels", spec.get("Labels"))
    facts("", {"Service Mode": mode, " Replicas": spec.get("Mode", {}).get("Replicated", {}).get("Replicas")})
    status = service.get("UpdateStatus") or {}
    facts("UpdateStatus", {"State": status.get("State"), "Started": status.get("StartedAt"),
                           "Message": status.get("Message")})  # fmt: skip
    facts("Placement", {"Constraints": ", ".join(template.get("Placement", {}).get("Constraints") or [])})
    for title, field in (("UpdateConfig", "UpdateConfig"), ("RollbackConfig", "RollbackConfig")):
        facts(title, update_rules(spec.get(field) or {}))
    facts("ContainerSpec", {
        "Image": container.get("Image"), "Command": " ".join(container.get("Command") or []),
        "Args": " ".join(container.get("Args") or []), "Env": ", ".join(container.get("Env") or []),
        "User": container.get("User"), "Dir": container.get("Dir"),
    })  # fmt: skip
    for mount in container.get("Mounts") or []:
        facts("Mount", {"Target": mount.get("Target"), "Source": mount.get("Source"), "Type": mount.get("Type"),
                        "ReadOnly": mount.get("ReadOnly")})  # fmt: skip
    resources = template.get("Resources") or {}
    for title, field in (("Reservations", "Reservations"), ("Limits", "Limits")):
        facts(title, amounts(resources.get(field) or {}))
    for port in service.get("Endpoint", {}).get("Ports") or []:
        facts("Port", {"PublishedPort": port.get("PublishedPort"), "TargetPort": port["TargetPort"],
                       "Protocol": port["Protocol"], "PublishMode": port["PublishMode"]})  # fmt: skip


def update_rules(config: JSON) -> JSON:
    return {
        "Parallelism": config.get("Parallelism"),
        "Delay": seconds(config.get("Delay")),
        "On failure": config.get("FailureAction"),
        "Monitoring Period": seconds(config.get("Monitor")),
        "Max failure ratio": config.get("MaxFailureRatio"),
        "Order": config.get("Order"),
    }


def print_node(node: JSON) -> None:
    """What the node is, what it has, and how it is."""
    description, spec = node["Description"], node["Spec"]
    engine, platform = description.get("Engine", {}), description.get("Platform", {})
    facts("", {"ID": node["ID"], "Name": spec.get("Name"), "Hostname": description.get("Hostname"),
               "Joined at": node.get("CreatedAt")})  # fmt: skip
    pairs("Labels", spec.get("Labels"))
    status = node["Status"]
    facts("Status", {"State": status["State"].capitalize(), "Message": status.get("Message"),
                     "Availability": spec["Availability"].capitalize(), "Address": status.get("Addr")})  # fmt: skip
    manager = node.get("ManagerStatus")
    if manager:
        facts("Manager Status", {
            "Address": manager.get("Addr"), "Raft Status": manager["Reachability"].capitalize(),
            "Leader": "Yes" if manager.get("Leader") else "No",
        })  # fmt: skip
    facts("Platform", {"Operating System": platform.get("OS"), "Architecture": platform.get("Architecture")})
    facts("Resources", amounts(description.get("Resources") or {}))
    facts("Engine", {"Engine Version": engine.get("EngineVersion")})
    pairs("Engine Labels", engine.get("Labels"))


def amounts(resources: JSON) -> JSON:
    cpus, memory = resources.get("NanoCPUs"), resources.get("MemoryBytes")
    return {"CPUs": f"{cpus / NANO:g}" if cpus else None, "Memory": f"{memory / MIB:g}MiB" if memory else None}


def seconds(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else f"{nanoseconds / NANO:g}s"


def facts(title: str, found: JSON) -> None:
    """The facts that there are, below their title."""
    present = {name: value for name, value in found.items() if value not in (None, "")}
    if title and present:
        print_text(f"{title}:")
    for name, value in present.items():
        print_text(f"{' ' if title else ''}{name}:\t{value}")


def pairs(title: str, found: dict[str, str] | None) -> None:
    """`name=value`, below their title."""
    if found:
        print_text(f"{title}:")
    for name, value in sorted((found or {}).items()):
        print_text(f" {name}={value}")
