"""`swarmpy swarm …`.

Source  docker swarm; Docker Engine API, paths under /swarm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarmpy.cli import values
from swarmpy.cli.commands import client, noun, verb
from swarmpy.cli.output import print_text

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

app = noun()
COMMANDS: dict[str, str] = {}

DEFAULT_PORT = 2377
Availability = Annotated[str, typer.Option("--availability", help="active, pause or drain")]
Listen = Annotated[str, typer.Option("--listen-addr", help="Where managers listen, ADDRESS[:PORT]")]
Advertise = Annotated[str, typer.Option("--advertise-addr", help="Address other nodes reach this one at")]
DataPath = Annotated[str, typer.Option("--data-path-addr", help="Address for the traffic of containers")]
History = Annotated[int | None, typer.Option("--task-history-limit", help="Past tasks kept per slot")]
Heartbeat = Annotated[str, typer.Option("--dispatcher-heartbeat", help="Time between a node's heartbeats")]
Expiry = Annotated[str, typer.Option("--cert-expiry", help="Lifetime of a node's certificate")]
Snapshots = Annotated[int | None, typer.Option("--snapshot-interval", help="Log entries between snapshots")]


def spec_changes(spec: dict[str, Any], history: int | None, heartbeat: str, expiry: str, snapshots: int | None) -> None:
    if history is not None:
        spec.setdefault("Orchestration", {})["TaskHistoryRetentionLimit"] = history
    if heartbeat:
        spec.setdefault("Dispatcher", {})["HeartbeatPeriod"] = values.duration_ns("dispatcher-heartbeat", heartbeat)
    if expiry:
        spec.setdefault("CAConfig", {})["NodeCertExpiry"] = values.duration_ns("cert-expiry", expiry)
    if snapshots is not None:
        spec.setdefault("Raft", {})["SnapshotInterval"] = snapshots


@verb(app, COMMANDS, "init")
def init(
    listen_addr: Listen = f"0.0.0.0:{DEFAULT_PORT}",
    advertise_addr: Advertise = "",
    data_path_addr: DataPath = "",
    data_path_port: Annotated[int, typer.Option("--data-path-port", help="UDP port of VXLAN")] = 0,
    default_addr_pool: Annotated[list[str], typer.Option("--default-addr-pool", help="Subnets for networks")] = [],  # noqa: B006
    default_addr_pool_mask_length: Annotated[int, typer.Option("--default-addr-pool-mask-length")] = 24,
    force_new_cluster: Annotated[
        bool, typer.Option("--force-new-cluster", help="From this manager's state, alone")
    ] = False,
    availability: Availability = "active",
    task_history_limit: History = None,
    dispatcher_heartbeat: Heartbeat = "",
    cert_expiry: Expiry = "",
    snapshot_interval: Snapshots = None,
) -> None:
    """Start a swarm with this node as its manager."""
    spec: dict[str, Any] = {}
    spec_changes(spec, task_history_limit, dispatcher_heartbeat, cert_expiry, snapshot_interval)
    daemon = client()
    node_id = daemon.post(
        "/swarm/init",
        body={
            "ListenAddr": listen_addr,
            "AdvertiseAddr": advertise_addr,
            "DataPathAddr": data_path_addr,
            "DataPathPort": data_path_port,
            "DefaultAddrPool": default_addr_pool,
            "SubnetSize": default_addr_pool_mask_length,
            "ForceNewCluster": force_new_cluster,
            "Availability": availability,
            "Spec": spec,
        },
    )
    print_text(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    print_text("To add a worker to this swarm, run the following command:\n")
    print_text(f"    {join_command(daemon, 'Worker')}\n")
    print_text("To add a manager to this swarm, run 'swarmpy swarm join-token manager' and follow the instructions.")


def join_command(daemon: Client, role: str) -> str:
    swarm = daemon.get("/swarm")
    managers = daemon.get("/info")["Swarm"]["RemoteManagers"] or []
    own = daemon.get("/info")["Swarm"]["NodeID"]
    addr = next((manager["Addr"] for manager in managers if manager["NodeID"] == own), "MANAGER:2377")
    return f"swarmpy swarm join --token {swarm['JoinTokens'][role]} {addr}"


@verb(app, COMMANDS, "join")
def join(
    remotes: Annotated[list[str], typer.Argument(metavar="HOST:PORT…", show_default=False)],
    token: Annotated[str, typer.Option("--token", help="Join token, of a worker or a manager", show_default=False)],
    listen_addr: Listen = f"0.0.0.0:{DEFAULT_PORT}",
    advertise_addr: Advertise = "",
    data_path_addr: DataPath = "",
    availability: Availability = "active",
) -> None:
    """Join a swarm."""
    daemon = client()
    daemon.post(
        "/swarm/join",
        body={
            "ListenAddr": listen_addr,
            "AdvertiseAddr": advertise_addr,
            "DataPathAddr": data_path_addr,
            "RemoteAddrs": remotes,
            "JoinToken": token,
            "Availability": availability,
        },
    )
    role = "manager" if daemon.get("/info")["Swarm"]["ControlAvailable"] else "worker"
    print_text(f"This node joined a swarm as a {role}.")


@verb(app, COMMANDS, "join-token")
def join_token(
    role: Annotated[str, typer.Argument(metavar="worker|manager", show_default=False)],
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new token; the old one is refused from now on")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the token")] = False,
) -> None:
    """Show, or change, the token that lets nodes join."""
    if role not in ("worker", "manager"):
        raise ValueError(f"{role!r} is not a role: use worker or manager")
    daemon = client()
    if rotate:
        swarm = daemon.get("/swarm")
        query = {"version": swarm["Version"]["Index"], f"rotate{role.capitalize()}Token": "true"}
        daemon.post("/swarm/update", query, swarm["Spec"])
        if not quiet:
            print_text(f"Successfully rotated {role} join token.\n")
    if quiet:
        print_text(daemon.get("/swarm")["JoinTokens"][role.capitalize()])
        return
    print_text(f"To add a {role} to this swarm, run the following command:\n")
    print_text(f"    {join_command(daemon, role.capitalize())}\n")


@verb(app, COMMANDS, "leave")
def leave(force: Annotated[bool, typer.Option("--force", "-f", help="Also as a manager")] = False) -> None:
    """Leave the swarm."""
    client().post("/swarm/leave", {"force": str(force).lower()})
    print_text("Node left the swarm.")


@verb(app, COMMANDS, "update")
def update(
    task_history_limit: History = None,
    dispatcher_heartbeat: Heartbeat = "",
    cert_expiry: Expiry = "",
    snapshot_interval: Snapshots = None,
) -> None:
    """Change the swarm's settings."""
    daemon = client()
    swarm = daemon.get("/swarm")
    spec_changes(swarm["Spec"], task_history_limit, dispatcher_heartbeat, cert_expiry, snapshot_interval)
    daemon.post("/swarm/update", {"version": swarm["Version"]["Index"]}, swarm["Spec"])
    print_text("Swarm updated.")


@verb(app, COMMANDS, "ca")
def ca(
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new root certificate")] = False,
) -> None:
    """Show the root certificate of the swarm."""
    daemon = client()
    swarm = daemon.get("/swarm")
    if rotate:
        spec = swarm["Spec"]
        spec["CAConfig"]["ForceRotate"] = spec["CAConfig"].get("ForceRotate", 0) + 1
        daemon.post("/swarm/update", {"version": swarm["Version"]["Index"]}, spec)
        swarm = daemon.get("/swarm")
    print_text(swarm["TLSInfo"]["TrustRoot"].rstrip("\n"))
