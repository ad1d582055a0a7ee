"""`swarmpy swarm …`.

Source  docker swarm; Docker Engine API, paths under /swarm.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from swarmpy.cli.commands import client, verb
from swarmpy.cli.declared import Argument, HelpWanted, Noun, Option
from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.flags import Flag, apply, sets, takes
from swarmpy.cli.output import print_text
from swarmpy.cli.values import duration_ns

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

app = Noun()
COMMANDS: dict[str, str] = {}

DEFAULT_PORT = 2377
ROTATION_POLL_S = 0.2
Availability = Annotated[str, Option("--availability", help="active, pause or drain")]
Listen = Annotated[str, Option("--listen-addr", help="Where managers listen, ADDRESS[:PORT]")]
Advertise = Annotated[str, Option("--advertise-addr", help="Address other nodes reach this one at")]
DataPath = Annotated[str, Option("--data-path-addr", help="Address for the traffic of containers")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Only what scripts want")]

SPEC = (
    Flag("task-history-limit", int, "Past tasks kept per slot", sets("Orchestration", "TaskHistoryRetentionLimit")),
    Flag("dispatcher-heartbeat", str, "Time between a node's heartbeats",
         sets("Dispatcher", "HeartbeatPeriod", as_=lambda text: duration_ns("dispatcher-heartbeat", text))),
    Flag("cert-expiry", str, "Lifetime of a node's certificate",
         sets("CAConfig", "NodeCertExpiry", as_=lambda text: duration_ns("cert-expiry", text))),
    Flag("external-ca", list[str], "Who signs certificates, protocol=…,url=…[,cacert=FILE]",
         sets("CAConfig", "ExternalCAs", as_=lambda items: [external_ca(item) for item in items])),
    Flag("snapshot-interval", int, "Log entries between snapshots", sets("Raft", "SnapshotInterval")),
    Flag("max-snapshots", int, "Old snapshots that are kept", sets("Raft", "KeepOldSnapshots")),
    Flag("autolock", bool, "Managers need a key when they start", sets("EncryptionConfig", "AutoLockManagers")),
)  # fmt: skip
CA = (
    *(flag for flag in SPEC if flag.name in ("cert-expiry", "external-ca")),
    Flag("ca-cert", str, "File of the new root certificate",
         sets("CAConfig", "SigningCACert", as_=lambda path: content("ca-cert", path))),
    Flag("ca-key", str, "File of its key", sets("CAConfig", "SigningCAKey", as_=lambda path: content("ca-key", path))),
)  # fmt: skip


def external_ca(text: str) -> dict[str, Any]:
    """`protocol=cfssl,url=https://…[,cacert=FILE][,NAME=VALUE]`."""
    names = {"protocol": "Protocol", "url": "URL", "cacert": "CACert"}
    found: dict[str, Any] = {}
    for field in text.split(","):
        name, equals, value = field.partition("=")
        if not equals:
            raise WrongFlag(f"--external-ca: {text!r}: {field!r} is not NAME=VALUE")
        if name.lower() in names:
            found[names[name.lower()]] = content("external-ca", value) if name.lower() == "cacert" else value
        else:
            found.setdefault("Options", {})[name] = value
    for name in ("protocol", "url"):
        if names[name] not in found:
            raise WrongFlag(f"--external-ca: {text!r}: {name}=… is missing")
    return found


def content(flag: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongFlag(f"--{flag}: {path}: {getattr(error, 'strerror', None) or 'is not text'}") from error


@verb(app, COMMANDS, "init")
@takes(SPEC)
def init(
    *,
    listen_addr: Listen = f"0.0.0.0:{DEFAULT_PORT}",
    advertise_addr: Advertise = "",
    data_path_addr: DataPath = "",
    data_path_port: Annotated[int, Option("--data-path-port", help="UDP port of VXLAN")] = 0,
    default_addr_pool: Annotated[list[str], Option("--default-addr-pool", help="Subnets for networks")] = [],  # noqa: B006
    default_addr_pool_mask_length: Annotated[int, Option("--default-addr-pool-mask-length")] = 24,
    force_new_cluster: Annotated[
        bool, Option("--force-new-cluster", help="From this manager's state, alone")
    ] = False,
    availability: Availability = "active",
    **given: Any,
) -> None:
    """Start a swarm with this node as its manager."""
    spec: dict[str, Any] = {}
    apply(spec, SPEC, given)
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
    if given["autolock"]:
        print_unlock_key(daemon)


def join_command(daemon: Client, role: str) -> str:
    swarm = daemon.get("/swarm")
    managers = daemon.get("/info")["Swarm"]["RemoteManagers"] or []
    own = daemon.get("/info")["Swarm"]["NodeID"]
    addr = next((manager["Addr"] for manager in managers if manager["NodeID"] == own), "MANAGER:2377")
    return f"swarmpy swarm join --token {swarm['JoinTokens'][role]} {addr}"


@verb(app, COMMANDS, "join")
def join(
    remotes: Annotated[list[str], Argument("HOST:PORT…")],
    token: Annotated[str, Option("--token", help="Join token, of a worker or a manager")] = "",
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
    role: Annotated[str, Argument("worker|manager")],
    rotate: Annotated[
        bool, Option("--rotate", help="Make a new token; the old one is refused from now on")
    ] = False,
    quiet: Quiet = False,
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
def leave(force: Annotated[bool, Option("--force", "-f", help="Also as a manager")] = False) -> None:
    """Leave the swarm."""
    client().post("/swarm/leave", {"force": str(force).lower()})
    print_text("Node left the swarm.")


@verb(app, COMMANDS, "update")
@takes(SPEC)
def update(**given: Any) -> None:
    """Change the swarm's settings."""
    if all(value is None or value == [] for value in given.values()):
        raise HelpWanted
    daemon = client()
    swarm = daemon.get("/swarm")
    apply(swarm["Spec"], SPEC, given)
    daemon.post("/swarm/update", {"version": swarm["Version"]["Index"]}, swarm["Spec"])
    print_text("Swarm updated.")
    if given["autolock"]:
        print_unlock_key(daemon)


@verb(app, COMMANDS, "ca")
@takes(CA)
def ca(
    *,
    rotate: Annotated[bool, Option("--rotate", help="Make a new root certificate")] = False,
    detach: Annotated[bool, Option("--detach", "-d", help="Do not wait until all nodes have it")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Wait without showing anything")] = False,
    **given: Any,
) -> None:
    """Show the root certificate of the swarm, or replace it on all nodes."""
    for flag in CA:
        if given[flag.parameter] and not rotate:
            raise WrongFlag(f"--{flag.name}: --rotate must be given as well")
    daemon = client()
    swarm = daemon.get("/swarm")
    if rotate:
        spec = swarm["Spec"]
        apply(spec, CA, given)
        if not given["ca_cert"] and not given["ca_key"]:
            spec["CAConfig"]["ForceRotate"] = spec["CAConfig"].get("ForceRotate", 0) + 1
        daemon.post("/swarm/update", {"version": swarm["Version"]["Index"]}, spec)
        if detach:
            return
        swarm = wait_for_root(daemon, show=not quiet)
    if not (rotate and quiet):
        print_text(swarm["TLSInfo"]["TrustRoot"].rstrip("\n"))


def wait_for_root(daemon: Client, *, show: bool) -> dict[str, Any]:
    """The swarm, once the rotation of its root has ended and every node trusts the new one alone."""
    shown = ""
    while True:
        swarm, nodes = daemon.get("/swarm"), daemon.get("/nodes")
        coming = swarm["TLSInfo"]
        infos = [node["Description"].get("TLSInfo", {}) for node in nodes]
        certified = sum(info.get("CertIssuerPublicKey") == coming["CertIssuerPublicKey"] for info in infos)
        alone = sum(info.get("TrustRoot") == coming["TrustRoot"] for info in infos)
        text = f"certificates of the new root: {certified}/{len(nodes)} nodes, trusting it alone: {alone}/{len(nodes)}"
        if show and text != shown:
            print_text(text)
            shown = text
        if not swarm["RootRotationInProgress"] and alone == len(nodes):
            return dict(swarm)
        time.sleep(ROTATION_POLL_S)


@verb(app, COMMANDS, "unlock-key")
def unlock_key(
    rotate: Annotated[bool, Option("--rotate", help="Make a new key")] = False, quiet: Quiet = False
) -> None:
    """Show, or change, the key that unlocks managers."""
    daemon = client()
    if rotate:
        swarm = daemon.get("/swarm")
        if not swarm["Spec"].get("EncryptionConfig", {}).get("AutoLockManagers"):
            raise ValueError("cannot rotate because autolock is not turned on")
        query = {"version": swarm["Version"]["Index"], "rotateManagerUnlockKey": "true"}
        daemon.post("/swarm/update", query, swarm["Spec"])
        if not quiet:
            print_text("Successfully rotated manager unlock key.\n")
    if quiet:
        print_text(daemon.get("/swarm/unlockkey")["UnlockKey"])
    else:
        print_unlock_key(daemon)


def print_unlock_key(daemon: Client) -> None:
    key = daemon.get("/swarm/unlockkey")["UnlockKey"]
    print_text("To unlock a swarm manager after it restarts, run 'swarmpy swarm unlock' and give this key:\n")
    print_text(f"    {key}\n\nKeep it in a safe place: without it no manager can be started again.")


@verb(app, COMMANDS, "unlock")
def unlock() -> None:
    """Give this manager the key, which is asked for."""
    from getpass import getpass  # for this command alone

    daemon = client()
    state = daemon.get("/info")["Swarm"]["LocalNodeState"]
    if state != "locked":
        raise ValueError("this node is not part of a swarm" if state == "inactive" else "the swarm is not locked")
    key = getpass("Enter unlock key: ") if sys.stdin.isatty() else sys.stdin.readline()
    daemon.post("/swarm/unlock", body={"UnlockKey": key.strip()})
