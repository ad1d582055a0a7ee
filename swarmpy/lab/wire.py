"""The network between a lab's hosts: one bridge in a namespace of its own, and what is done to it.

The machine's own namespace sees one veth end for each lab and nothing else. The bridge's port of a host has the host's
name; filters between hosts are nftables rules on the bridge, delays are relays between a port and the bridge.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import IPRoute

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.lab.host import HERE, Host, poll_until
from swarmpy.lab.plan import MACHINE_LINK_PREFIX, HostPlan, LabPlan
from swarmpy.network.addresses import mac_for
from swarmpy.network.kernel import NetlinkError, in_namespace
from swarmpy.network.nftables import Command, Nftables

__all__ = ["Impairment", "Wire", "numbers_in_use", "remove_machine_link"]

BRIDGE = "wire"
MACHINE_PORT = "machine"
TABLE = "partition"
RELAY_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a host's link does to each frame, both ways: holds it back `delay_s` ± `jitter_s`; loses it with probability
    `loss`."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.delay_s < 0 or not 0 <= self.jitter_s <= self.delay_s:
            raise InvalidArgument(f"delay {self.delay_s:g} s, jitter {self.jitter_s:g} s: jitter must not exceed delay")
        if not 0 <= self.loss <= 1:
            raise InvalidArgument(f"loss {self.loss:g} is no probability; give a number from 0 to 1")


class Wire:
    """See the module. The namespace is that of a host without a daemon."""

    def __init__(self, plan: LabPlan) -> None:
        self._plan = plan
        self.host = Host(plan.name, "wire", plan.run_dir / "wire")

    def start(self) -> None:
        """The bridge is up and the machine is on it. Conflict when the machine already uses the lab's network."""
        self.host.boot()
        self.host.with_links(_make_bridge)
        _plug_machine(self._plan, self.host)

    def plug(self, plan: HostPlan, host: Host) -> None:
        """`host` is on the wire with its address, and has a route to the machine."""
        self.unplug(plan)
        descriptor = host.namespace()
        try:
            self.host.with_links(lambda links: _add_port(links, plan, descriptor))
        finally:
            os.close(descriptor)
        host.with_links(lambda links: _configure(links, plan, self._plan))

    def unplug(self, plan: HostPlan) -> None:
        """The host's link is gone at once: not a farewell packet leaves it."""
        self.restore(plan)
        self.host.with_links(lambda links: _delete(links, plan.name))

    # ------------------------------------------------------------------------------------------- partitions

    def partition(self, groups: Sequence[Collection[HostPlan]], *, one_way: bool = False) -> None:
        """No frame passes between hosts of different groups; with `one_way`, only those from the first group to the
        others are dropped. Replaces an earlier partition. The machine still reaches every host."""
        senders = groups[:1] if one_way else groups
        pairs = [(sender, receiver) for sender in senders for receiver in groups if receiver is not sender]
        self._nftables([*_without_table(), *_drop_rules(pairs)])

    def heal(self) -> None:
        """All frames pass again, at once."""
        self._nftables(_without_table())
        for plan in self._plan.hosts:
            self.restore(plan)

    # ----------------------------------------------------------------------------------------------- delays

    def impair(self, plan: HostPlan, impairment: Impairment, seed: int = 0) -> None:
        """The host's link is as bad as told, from now on and both ways. Replaces an earlier impairment."""
        self.restore(plan)
        near, far = f"r-{plan.name}", f"b-{plan.name}"
        self.host.with_links(lambda links: _insert_pair(links, plan.name, near, far))
        ready = self.host.directory / f"{plan.name}.ready"
        ready.unlink(missing_ok=True)
        numbers = [str(impairment.delay_s), str(impairment.jitter_s), str(impairment.loss), str(seed)]
        argv = [sys.executable, "-I", "-S", str(HERE / "relay.py"), plan.name, near, *numbers, str(ready)]
        self.host.spawn(near, argv, {})
        poll_until(ready.exists, RELAY_DEADLINE_S, f"the relay of host {plan.name}, see {self.host.log(near)}")

    def restore(self, plan: HostPlan) -> None:
        """The host's link is as good as new. Idempotent."""
        near = f"r-{plan.name}"
        if self.host.signal(near, signal.SIGKILL):
            poll_until(lambda: not self.host.running(near), RELAY_DEADLINE_S, f"the relay of host {plan.name} to end")
        self.host.with_links(lambda links: _remove_pair(links, plan.name, near))

    def _nftables(self, commands: list[Command]) -> None:
        def run() -> None:
            nftables = Nftables()
            try:
                nftables.run(commands)
            finally:
                nftables.close()

        descriptor = self.host.namespace()
        try:
            in_namespace(descriptor, run)
        finally:
            os.close(descriptor)


def remove_machine_link(name: str) -> bool:
    """The machine has no link `name`; whether it had."""
    links: Any = IPRoute()
    try:
        return _delete(links, name)
    finally:
        links.close()


def _plug_machine(plan: LabPlan, wire: Host) -> None:
    links: Any = IPRoute()
    descriptor = wire.namespace()
    try:
        for route in links.get_routes(family=2, table=254):
            if route.get_attr("RTA_DST") == str(plan.subnet.network_address):
                raise Conflict(f"this machine already has a route to {plan.subnet}, the network of lab {plan.name}")
        peer = {"ifname": MACHINE_PORT, "net_ns_fd": descriptor}
        mac = mac_for(plan.machine_address)
        links.link("add", ifname=plan.machine_link, kind="veth", address=mac, peer=peer)
        index = links.link_lookup(ifname=plan.machine_link)[0]
        links.addr("add", index=index, address=str(plan.machine_address), prefixlen=plan.subnet.prefixlen)
        links.link("set", index=index, state="up")
    finally:
        os.close(descriptor)
        links.close()
    wire.with_links(_enslave_machine)


def _make_bridge(links: Any) -> None:
    links.link("add", ifname=BRIDGE, kind="bridge", br_forward_delay=0)
    for name in ("lo", BRIDGE):
        links.link("set", index=_index(links, name), state="up")


def _enslave_machine(links: Any) -> None:
    links.link("set", index=_index(links, MACHINE_PORT), master=_index(links, BRIDGE), state="up")


def _add_port(links: Any, plan: HostPlan, namespace: int) -> None:
    inside = {"ifname": "eth0", "net_ns_fd": namespace, "address": mac_for(IPv4Address(plan.address))}
    links.link("add", ifname=plan.name, kind="veth", master=_index(links, BRIDGE), state="up", peer=inside)


def _configure(links: Any, plan: HostPlan, lab: LabPlan) -> None:
    index = _index(links, "eth0")
    links.addr("add", index=index, address=plan.address, prefixlen=lab.subnet.prefixlen)
    for each in (_index(links, "lo"), index):
        links.link("set", index=each, state="up")
    # The machine forwards nothing for a lab: saying so at once spares whoever looks for a name the time-out.
    links.route("replace", family=socket.AF_INET, dst="0.0.0.0/0", type="unreachable")


def _insert_pair(links: Any, port: str, near: str, far: str) -> None:
    """The port leaves the bridge, and a pair stands ready for the relay: `near` for it, `far` on the bridge."""
    if not links.link_lookup(ifname=port):
        raise Conflict(f"host {port} is down and has no link that could be impaired; start it first")
    links.link("add", ifname=near, kind="veth", state="up", peer={"ifname": far})
    links.link("set", index=_index(links, far), master=_index(links, BRIDGE), state="up")
    links.link("set", index=_index(links, port), master=0)


def _remove_pair(links: Any, port: str, near: str) -> None:
    if _delete(links, near) and links.link_lookup(ifname=port):
        links.link("set", index=_index(links, port), master=_index(links, BRIDGE))


def _index(links: Any, name: str) -> int:
    return int(links.link_lookup(ifname=name)[0])


def _delete(links: Any, name: str) -> bool:
    found = links.link_lookup(ifname=name)
    if not found:
        return False
    try:
        links.link("del", index=found[0])
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
    return True


def _without_table() -> list[Command]:
    table = {"table": {"family": "bridge", "name": TABLE}}
    return [{"add": table}, {"delete": table}]


def _drop_rules(pairs: Iterable[tuple[Collection[HostPlan], Collection[HostPlan]]]) -> list[Command]:
    here = {"family": "bridge", "table": TABLE}
    chain = {**here, "name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}
    commands: list[Command] = [{"add": {"table": {"family": "bridge", "name": TABLE}}}, {"add": {"chain": chain}}]
    for senders, receivers in pairs:
        match = [_among("iifname", senders), _among("oifname", receivers), {"drop": None}]
        commands.append({"add": {"rule": {**here, "chain": "forward", "expr": match}}})
    return commands


def _among(key: str, hosts: Collection[HostPlan]) -> Command:
    """A port of one of `hosts`: its own, or the one it has while a relay stands between."""
    names = [name for host in hosts for name in (host.name, f"b-{host.name}")]
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": {"set": names}}}


def numbers_in_use() -> set[int]:
    """Lab numbers whose link exists or to whose network there is a route."""
    links: Any = IPRoute()
    try:
        names = [link.get_attr("IFLA_IFNAME") for link in links.get_links()]
        routes = [route.get_attr("RTA_DST") or "" for route in links.get_routes(family=2)]
    finally:
        links.close()
    held = {name.removeprefix(MACHINE_LINK_PREFIX) for name in names if name.startswith(MACHINE_LINK_PREFIX)}
    held |= {destination.split(".")[2] for destination in routes if destination.startswith("10.77.")}
    return {int(number) for number in held if number.isdigit()}
