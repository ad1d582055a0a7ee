"""The network of one host's containers: the default bridge, their links and addresses, and host ports.

Owns    the bridge `<prefix>0`, veth pairs `<prefix>v…`, tables `<prefix>-host` and `<prefix>-user`, claims on host
        ports, and one record per container under the state directory.
In      containers, given by their network namespace.
Out     EndpointInfo values.

A record is written before the kernel is changed and removed after, so that whatever a crash leaves in the kernel is
known by name. Records need not survive the machine: the namespaces they speak of do not either.

Design note: docs/design/network.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound, SwarmpyError
from swarmpy.network import conntrack, host_rules, links
from swarmpy.network.addresses import DEFAULT_POOLS, AddressPool, choose_subnet, mac_for
from swarmpy.network.claims import NameClaim, PortClaim
from swarmpy.network.departures import Departures
from swarmpy.network.endpoint import EndpointInfo, EndpointRecord, HostPort
from swarmpy.network.kernel import (
    IP_FORWARD,
    Handles,
    KernelThread,
    NetlinkError,
    in_namespace,
    open_namespace,
    write_sysctl,
)
from swarmpy.network.mesh import checked_prefix, ingress_bridge
from swarmpy.network.nftables import Command
from swarmpy.network.records import Records
from swarmpy.network.ruleset import FAMILY, Ruleset, change, comments, observed

__all__ = ["BRIDGE", "INGRESS", "HostNetwork"]

log = logging.getLogger(__name__)

BRIDGE, INGRESS = "bridge", "ingress"
USER_CHAIN_PRIORITY = -10
GLANCE_S = 1.0


class HostNetwork:
    """See the module. Call `start` first; all methods may be called from several tasks."""

    def __init__(
        self, name_prefix: str, state_dir: Path, *, pools: Sequence[IPv4Network] = DEFAULT_POOLS
    ) -> None:
        """`state_dir` is this daemon's alone; `pools` are the subnets to choose the bridge's from, best first."""
        self._prefix = checked_prefix(name_prefix)
        self._bridge = f"{name_prefix}0"
        self._table = f"{name_prefix}-host"
        self._records = Records(state_dir)
        self._pools = pools
        self._kernel = KernelThread("network")
        self._departures = Departures()
        self._turn = asyncio.Lock()
        self._name_claim: NameClaim | None = None
        self._addresses: AddressPool | None = None
        self._containers: dict[str, EndpointRecord] = {}
        self._claims: dict[tuple[str, HostPort], PortClaim] = {}
        self._rules: Ruleset | None = None
        self._seen: tuple[tuple[int | None, ...], int] = ((), 0)  # bridges, generation of rules: when all was right
        self._watch: asyncio.Task[None] | None = None

    @property
    def subnet(self) -> IPv4Network:
        """The default bridge's subnet."""
        return self._pool().subnet

    @property
    def gateway(self) -> IPv4Address:
        """The default bridge's own address: where containers reach the host."""
        return self._pool().gateway

    @property
    def bridge(self) -> str:
        """The default bridge's link name."""
        return self._bridge

    async def start(self) -> None:
        """The bridge is up and filtered; containers recorded by an earlier daemon keep addresses and ports.

        Raises Conflict when a daemon with the same prefix runs in this network namespace, Unavailable when no subnet
        is free.
        """
        async with self._turn:
            self._name_claim = NameClaim(
                f"host/{self._prefix}",
                f"another daemon uses network prefix {self._prefix!r} in this network namespace; "
                "give one of them another --network-prefix",
            )
            try:
                await self._start()
            except BaseException:
                self._name_claim.release()
                raise
        self._watch = asyncio.create_task(self._keep_watch(), name="host network")

    async def close(self) -> None:
        """Let go. What live containers use stays in the kernel; when there are none, nothing does."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        await self._departures.over()
        async with self._turn:
            if not self._containers and self._addresses is not None:
                await self._kernel.run(self._remove_all)
                await asyncio.to_thread(self._records.forget_subnet)
            for claim in self._claims.values():
                claim.release()
            self._claims.clear()
            if self._name_claim is not None:
                self._name_claim.release()
            await self._kernel.close()

    async def loopback(self, container_id: str, netns: int | Path) -> None:
        """A container without networks (`--network none`) has its loopback up."""
        await asyncio.to_thread(_inside, netns, container_id, links.ensure_loopback)

    async def connect(
        self,
        container_id: str,
        netns: int | Path,
        network: str,
        *,
        ip: str | None = None,
        mac: str | None = None,
    ) -> EndpointInfo:
        """The container has one more interface, up, with an address, on `network`: "bridge" or "ingress".

        `netns` is the pid of the container's init, or a path of its network namespace. On the bridge `ip` may be left
        out; on ingress it is the address, with prefix length, that the allocator chose. On failure nothing stays.

        Raises Conflict (already connected, address in use, the container has ended), NotFound (no such network),
        Unavailable (ingress is not up on this node).
        """
        await self._departures.over(container_id)  # its link of before has the same name
        if ip is not None and network == BRIDGE:
            await self._departures.over()  # one of them may have the address
        async with self._turn:
            return await self._connect(container_id, netns, network, ip, mac)

    async def disconnect(self, container_id: str, network: str | None = None) -> None:
        """The container is off `network`, or off every one: nothing leads to it, its host ports are free. Idempotent.

        Its link and its address go a little later; nobody can tell, but by looking at the host's links.
        """
        async with self._turn:
            record = self._containers.get(container_id)
            if record is None:
                return
            await self._unlink(record, [e for e in record.endpoints if network in (None, e.network)])

    async def publish(self, container_id: str, ports: Sequence[HostPort]) -> tuple[HostPort, ...]:
        """Exactly `ports` of this host lead to the container; returns them with every port number filled in.

        Raises Conflict when a port is in use, by a process of this host or another container, NotFound when the
        container is not on the bridge. On failure the container's published ports are as before.
        """
        async with self._turn:
            record = self._containers.get(container_id)
            endpoint = record.on(BRIDGE) if record else None
            if record is None or endpoint is None:
                raise NotFound(f"container {container_id[:12]} is not on network bridge; connect it before publishing")
            claimed = await asyncio.to_thread(self._claim_all, container_id, ports)
            published = tuple(claimed)
            dropped = [port for port in record.ports if port not in published]
            try:
                await self._remember(replace(record, ports=published))
                await self._apply_rules()
            except BaseException:
                self._release(container_id, [port for port in published if port not in record.ports])
                await self._remember(record)
                raise
            self._release(container_id, dropped)
            await self._forget_flows(published, endpoint.ip)
            await self._forget_flows(dropped, None)
            return published

    async def repair(self, live: Collection[str]) -> None:
        """After a restart: containers not among `live` are forgotten, with all that is theirs; the rest is put right.

        Also puts right what others changed in the kernel: rules, links of nobody.
        """
        async with self._turn:
            for container_id in [known for known in self._containers if known not in live]:
                record = self._containers[container_id]
                await self._unlink(record, record.endpoints)
            wanted = {e.host_interface for record in self._containers.values() for e in record.endpoints}
            await self._kernel.run(self._remove_strays, wanted)
            await self._restore()

    async def glance(self) -> bool:
        """Put right what others changed of bridges, their ports and rules, as far as it shows at a glance. Whether so.

        Done every second from `start` to `close`.
        """
        async with self._turn:
            disturbed = self._rules is None or await self._kernel.run(self._disturbed, self._rules)
            if disturbed:
                await self._restore()
            return disturbed

    def endpoints(self, container_id: str) -> tuple[EndpointInfo, ...]:
        """The container's interfaces; none when it is not known."""
        record = self._containers.get(container_id)
        return record.endpoints if record else ()

    def published(self, container_id: str) -> tuple[HostPort, ...]:
        """The host ports that lead to the container."""
        record = self._containers.get(container_id)
        return record.ports if record else ()

    # -------------------------------------------------------------------------------------------- in turn

    async def _start(self) -> None:
        self._containers = await asyncio.to_thread(self._records.read)
        remembered = await asyncio.to_thread(self._records.subnet)
        subnet = await self._kernel.run(self._bring_up, remembered)
        await asyncio.to_thread(self._records.remember_subnet, subnet)
        self._addresses = AddressPool(subnet)
        for record in self._containers.values():
            endpoint = record.on(BRIDGE)
            if endpoint is not None:
                self._addresses.take(IPv4Address(endpoint.ip))
            for port in record.ports:
                # The port is the container's already. Should a process have taken it while no daemon ran, the
                # translation comes first all the same; the claim is only lost until the port is published again.
                with contextlib.suppress(Conflict, InvalidArgument):
                    self._claims[record.container_id, port] = PortClaim(port.protocol, port.host_ip, port.host_port)
        self._rules = await self._kernel.run(self._read_rules)
        await self._apply_rules()
        for chain in await self._kernel.run(_closed_to_forwarding):
            log.warning(
                "chain %s drops what this host forwards: published ports answer on the host itself, and from outside "
                "only as far as its rules accept packets to and from links %s and %s",
                chain, self._bridge, ingress_bridge(self._prefix),
            )  # fmt: skip

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(GLANCE_S)
            try:
                if await self.glance():
                    log.warning("the network of containers was changed by others and is repaired")
            except (SwarmpyError, OSError) as error:
                log.error("the network of containers could not be looked after: %s", error)

    async def _restore(self) -> None:
        """Bridges, their ports and rules are as the records say."""
        await self._kernel.run(self._make, self.subnet)
        ends = [
            (endpoint.host_interface, self._bridge_of(endpoint.network), endpoint.mac, endpoint.network == INGRESS)
            for record in self._containers.values()
            for endpoint in record.endpoints
        ]
        await self._kernel.run(_attach_ports, ends)
        self._rules = await self._kernel.run(self._read_rules)
        await self._apply_rules()

    async def _connect(
        self, container_id: str, netns: int | Path, network: str, ip: str | None, mac: str | None
    ) -> EndpointInfo:
        record = self._containers.get(container_id, EndpointRecord(container_id))
        if record.on(network) is not None:
            raise Conflict(f"container {container_id[:12]} is already connected to network {network}")
        end = self._end_for(network, record.next_interface(), ip, mac)
        endpoint = EndpointInfo(
            network=network,
            interface=end.interface,
            ip=str(end.address.ip),
            prefix_len=end.address.network.prefixlen,
            mac=end.mac,
            mtu=end.mtu,
            host_interface=self._veth_name(container_id, network),
            gateway=str(end.gateway) if end.gateway else None,
        )
        try:
            connected = await self._kernel.run(self._join, netns, record, endpoint, end)
        except BaseException:
            await self._unlink(record.with_endpoint(endpoint), [endpoint])
            raise
        self._containers[container_id] = record.with_endpoint(connected)
        return connected

    def _end_for(self, network: str, interface: str, ip: str | None, mac: str | None) -> links.VethEnd:
        """The container's end: its address is taken. Its MTU will be the bridge's."""
        try:
            if network == BRIDGE:
                pool = self._pool()
                address = pool.take(IPv4Address(ip.partition("/")[0]) if ip else None)
                whole = IPv4Interface(f"{address}/{pool.subnet.prefixlen}")
                return links.VethEnd(interface, whole, pool.gateway, mac or mac_for(address), 0)
            if network == INGRESS:
                if ip is None or "/" not in ip:
                    raise InvalidArgument(f"network ingress needs an address with prefix length, not {ip!r}")
                whole = IPv4Interface(ip)
                return links.VethEnd(interface, whole, None, mac_for(whole.ip), 0)
        except ValueError as error:
            raise InvalidArgument(f"address {ip!r} for network {network} is no IPv4 address") from error
        raise NotFound(f"network {network} not found")

    async def _unlink(self, record: EndpointRecord, endpoints: Sequence[EndpointInfo]) -> None:
        """The record without `endpoints`, at once; on disk once their links are gone."""
        for endpoint in endpoints:
            ports = record.ports if endpoint.network == BRIDGE else ()
            record = record.without(endpoint.network)
            self._release(record.container_id, ports)
            self._note(record)
            if endpoint.network == BRIDGE:
                await self._apply_rules()
                await self._forget_flows(ports, None)
        names = [endpoint.host_interface for endpoint in endpoints]
        self._departures.begin(record.container_id, names, partial(self._gone, record.container_id, endpoints))

    async def _gone(self, container_id: str, endpoints: Sequence[EndpointInfo]) -> None:
        """The links of `endpoints` are gone, and nobody needs to know of them any more."""
        async with self._turn:
            record = self._containers.get(container_id, EndpointRecord(container_id))
            await asyncio.to_thread(self._records.save, record)
            for endpoint in endpoints:
                if endpoint.network == BRIDGE:
                    self._pool().give_back(IPv4Address(endpoint.ip))

    async def _remember(self, record: EndpointRecord) -> None:
        self._note(record)
        await asyncio.to_thread(self._records.save, record)

    def _note(self, record: EndpointRecord) -> None:
        if record.endpoints:
            self._containers[record.container_id] = record
        else:
            self._containers.pop(record.container_id, None)

    async def _apply_rules(self) -> None:
        wanted = host_rules.render(self._table, self._bridge, self.subnet, self._containers.values())
        if wanted != self._rules:
            had, self._rules = self._rules, None  # while the kernel changes, nobody knows
            await self._kernel.run(self._change_rules, had, wanted)
            self._rules = wanted

    async def _forget_flows(self, ports: Sequence[HostPort], to: str | None) -> None:
        """UDP flows to `ports` that go anywhere but there at `to` are decided anew."""
        live: dict[tuple[str, int], set[tuple[IPv4Address, int]]] = {}
        for port in ports:
            if port.protocol == "udp":
                backends = live.setdefault((port.protocol, port.host_port), set())
                if to is not None:
                    backends.add((IPv4Address(to), port.container_port))
        if live:
            await self._kernel.run(conntrack.forget_flows, live)

    def _claim_all(self, container_id: str, ports: Sequence[HostPort]) -> list[HostPort]:
        filled: list[HostPort] = []
        fresh: list[HostPort] = []
        try:
            for port in dict.fromkeys(ports):
                if (container_id, port) not in self._claims:
                    claim = PortClaim(port.protocol, port.host_ip, port.host_port)
                    port = replace(port, host_port=claim.port)
                    self._claims[container_id, port] = claim
                    fresh.append(port)
                filled.append(port)
        except BaseException:
            self._release(container_id, fresh)
            raise
        return filled

    def _release(self, container_id: str, ports: Sequence[HostPort]) -> None:
        for port in ports:
            claim = self._claims.pop((container_id, port), None)
            if claim is not None:
                claim.release()

    def _pool(self) -> AddressPool:
        if self._addresses is None:
            raise Conflict("the host network has not been started")
        return self._addresses

    def _bridge_of(self, network: str) -> str:
        return self._bridge if network == BRIDGE else ingress_bridge(self._prefix)

    def _veth_name(self, container_id: str, network: str) -> str:
        digest = hashlib.sha256(f"{container_id}/{network}".encode()).hexdigest()
        return f"{self._prefix}v{digest[: 14 - len(self._prefix)]}"

    # ----------------------------------------------------------------------------------- on the kernel thread

    def _join(
        self, handles: Handles, netns: int | Path, record: EndpointRecord, endpoint: EndpointInfo, end: links.VethEnd
    ) -> EndpointInfo:
        """The endpoint, recorded and then made."""
        descriptor = open_namespace(netns, record.container_id)
        try:
            bridge = self._bridge_of(endpoint.network)
            end = replace(end, mtu=links.bridge_mtu(handles, bridge))
            endpoint = replace(endpoint, mtu=end.mtu)
            self._records.save(record.with_endpoint(endpoint))
            fixed = endpoint.network == INGRESS
            links.make_veth(handles, endpoint.host_interface, bridge, end, descriptor, fixed=fixed)
            in_namespace(descriptor, partial(links.configure_inside, end))
        finally:
            os.close(descriptor)
        return endpoint

    def _bring_up(self, handles: Handles, remembered: IPv4Network | None) -> IPv4Network:
        subnet = remembered
        if subnet is None or handles.index_of(self._bridge) is None:
            # Containers' addresses are of the remembered subnet, even when somebody deleted the bridge.
            in_use = links.routed_networks(handles, self._bridge)
            candidates = [subnet] if subnet and self._containers else [*([subnet] if subnet else []), *self._pools]
            subnet = choose_subnet(candidates, in_use)
        self._make(handles, subnet)
        return subnet

    def _make(self, handles: Handles, subnet: IPv4Network) -> None:
        gateway = AddressPool(subnet).gateway
        mtu = links.mtu_towards(handles, None)
        links.ensure_bridge(handles, self._bridge, IPv4Interface(f"{gateway}/{subnet.prefixlen}"), mtu)
        write_sysctl(IP_FORWARD, "1")
        handles.nftables.run(self._user_chain())

    def _disturbed(self, handles: Handles, rules: Ruleset) -> bool:
        """Whether bridges, ports or rules are not as they were left. Cheap while nothing of the kind changes at all."""
        generation = handles.rules.generation()
        bridges = tuple(handles.index_of(name) for name in (self._bridge, ingress_bridge(self._prefix)))
        if bridges != self._seen[0] and (bridges[0] is None or self._detached(handles)):
            return True
        if generation != self._seen[1]:
            tables = handles.rules.tables()
            if tables.get(self._table) != 0 or f"{self._prefix}-user" not in tables:
                return True
            if handles.rules.comments(self._table) != comments(rules):
                return True
        self._seen = bridges, generation
        return False

    def _detached(self, handles: Handles) -> bool:
        """Whether a container's link is there and no port of its bridge."""
        return any(
            handles.index_of(name) is not None
            for network, ends in self._ends().items()
            for name in ends - links.ports_of(handles, self._bridge_of(network))
        )

    def _ends(self) -> dict[str, set[str]]:
        """The host's ends of the containers' links, by network."""
        found: dict[str, set[str]] = {}
        for record in self._containers.values():
            for endpoint in record.endpoints:
                found.setdefault(endpoint.network, set()).add(endpoint.host_interface)
        return found

    def _user_chain(self) -> list[Command]:
        """The administrator's own chain, passed by all forwarded traffic before ours; its rules are never touched."""
        table = f"{self._prefix}-user"
        chain = {
            "family": FAMILY, "table": table, "name": "forward",
            "type": "filter", "hook": "forward", "prio": USER_CHAIN_PRIORITY, "policy": "accept",
        }  # fmt: skip
        return [{"add": {"table": {"family": FAMILY, "name": table}}}, {"add": {"chain": chain}}]

    def _read_rules(self, handles: Handles) -> Ruleset | None:
        listed = handles.own_table(self._table)
        return None if listed is None else observed(self._table, listed)

    def _change_rules(self, handles: Handles, had: Ruleset | None, wanted: Ruleset) -> None:
        """The table is as wanted, also when somebody else has changed it meanwhile."""
        if had is not None:
            try:
                handles.nftables.run(change(had, wanted))
                return
            except Internal as refusal:
                log.warning("table %s was changed by others and is put right: %s", self._table, refusal)
        handles.nftables.run(change(self._read_rules(handles), wanted))

    def _remove_strays(self, handles: Handles, wanted: set[str]) -> None:
        for bridge in (self._bridge, ingress_bridge(self._prefix)):
            for name in links.ports_of(handles, bridge):
                if name.startswith(f"{self._prefix}v") and name not in wanted:
                    links.delete_link(handles, name)

    def _remove_all(self, handles: Handles) -> None:
        self._remove_strays(handles, set())
        links.delete_link(handles, self._bridge)
        handles.nftables.run(change(self._read_rules(handles), None))
        user = f"{self._prefix}-user"
        if user in handles.rules.tables() and not handles.rules.comments(user):
            handles.nftables.run([{"delete": {"table": {"family": FAMILY, "name": user}}}])


def _closed_to_forwarding(handles: Handles) -> list[str]:
    return handles.rules.closed_to_forwarding()


def _attach_ports(handles: Handles, ends: Sequence[tuple[str, str, str, bool]]) -> None:
    for name, bridge, mac, fixed in ends:
        links.attach_port(handles, name, bridge, mac, fixed=fixed)


def _inside(netns: int | Path, container_id: str, work: Callable[[], None]) -> None:
    """Do `work` in the container's namespace. Conflict when it has ended, Internal when the kernel refuses."""
    descriptor = open_namespace(netns, container_id)
    try:
        in_namespace(descriptor, work)
    except NetlinkError as error:
        raise Internal(f"the kernel refused a change inside container {container_id[:12]}: {error}") from error
    finally:
        os.close(descriptor)
