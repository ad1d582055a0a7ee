"""What `swarmpyd` is started with. Everything else is decided at run time, through the API."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmpy import __version__
from swarmpy.errors import InvalidArgument

__all__ = ["Config", "parse_arguments"]

LEVELS = ("debug", "info", "warning", "error")
PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}")      # of interface names, which end at 15 characters (IFNAMSIZ)


@dataclass(frozen=True, slots=True)
class Config:
    """The command line, checked."""

    data_root: Path                     # survives reboots: images, containers, the node's place in a swarm
    exec_root: Path                     # of this boot: sockets and the runtime's state
    hosts: tuple[str, ...]              # where the API listens: unix:///path, tcp://ip:port
    cgroup_parent: str
    labels: tuple[tuple[str, str], ...]
    log_level: str
    node_name: str                      # the host name nodes show
    network_prefix: str                 # of interfaces and nftables tables this daemon makes
    tls_ca: Path | None = None          # the API over TCP wants client certificates of this CA
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_registries: tuple[str, ...] = ()   # host[:port] or CIDR: plain HTTP or an unknown certificate will do
    registry_mirror: str = ""           # asked in place of the default registry

    @property
    def swarm_dir(self) -> Path:
        return self.data_root / "swarm"


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the command line. Raises InvalidArgument; prints and exits for --help and unknown options."""
    given = _parser().parse_args(arguments)
    hosts = tuple(given.host or ("unix:///run/swarmpy.sock",))
    for host in hosts:
        if not host.startswith(("unix:///", "tcp://")):
            raise InvalidArgument(f"--host {host}: must be unix:///path or tcp://ip:port")
    tls = (given.tlscacert, given.tlscert, given.tlskey)
    if any(host.startswith("tcp://") for host in hosts) and not all(tls):
        raise InvalidArgument(
            "--host tcp://… gives root on this host to whoever reaches it, so it needs client certificates: give"
            " --tlscacert, --tlscert and --tlskey, or listen on a unix socket"
        )
    if not PREFIX.fullmatch(given.network_prefix):
        raise InvalidArgument(f"--network-prefix {given.network_prefix}: a letter, then up to five letters or digits")
    if given.registry_mirror and not given.registry_mirror.startswith(("https://", "http://")):
        raise InvalidArgument(f"--registry-mirror {given.registry_mirror}: must be https://host[:port] or http://…")
    if not given.cgroup_parent.startswith("/"):
        raise InvalidArgument(f"--cgroup-parent {given.cgroup_parent}: must begin with /")
    return Config(
        data_root=given.data_root.absolute(),
        exec_root=given.exec_root.absolute(),
        hosts=hosts,
        cgroup_parent=given.cgroup_parent,
        labels=tuple(_label(text) for text in given.label or ()),
        log_level=given.log_level,
        node_name=given.node_name or socket.gethostname(),
        network_prefix=given.network_prefix,
        tls_ca=given.tlscacert,
        tls_cert=given.tlscert,
        tls_key=given.tlskey,
        insecure_registries=tuple(given.insecure_registry or ()),
        registry_mirror=given.registry_mirror,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swarmpyd", description="Container engine and swarm node in one daemon.")
    add = parser.add_argument
    add("--version", action="version", version=f"swarmpyd {__version__}")
    add("--data-root", type=Path, default=Path("/var/lib/swarmpy"), help="what survives reboots (%(default)s)")
    add("--exec-root", type=Path, default=Path("/run/swarmpy"), help="what belongs to this boot (%(default)s)")
    add("--host", "-H", action="append", help="where the API listens; may repeat (unix:///run/swarmpy.sock)")
    add("--cgroup-parent", default="/swarmpy", help="containers' cgroups live under it (%(default)s)")
    add("--label", action="append", metavar="KEY=VALUE", help="engine label; may repeat")
    add("--log-level", choices=LEVELS, default="info")
    add("--node-name", default="", help="host name to show; the system's if not given")
    add("--network-prefix", default="sw", help="names of links and tables begin with it (%(default)s)")
    add("--insecure-registry", action="append", metavar="HOST[:PORT]|CIDR", help="needs no verified TLS; may repeat")
    add("--registry-mirror", default="", metavar="URL", help="asked in place of the default registry")
    add("--tlscacert", type=Path, help="clients over TCP need a certificate of this CA")
    add("--tlscert", type=Path, help="certificate of the API over TCP")
    add("--tlskey", type=Path, help="its key")
    return parser


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key:
        raise InvalidArgument(f"--label {text}: must be KEY=VALUE")
    return key, value
