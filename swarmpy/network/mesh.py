"""The routing mesh of one node: every published port of the swarm, answered here, in the kernel.

Owns    the links `<prefix>-ing` (bridge) and `<prefix>-vx` (VXLAN), the table `<prefix>-mesh`, claims on the published
        ports. All of it is derived from the last view, and from which of its backends answer, and can be rebuilt.
In      MeshView values; the newest alone counts.
Out     the kernel's tables, changed by the smallest difference.

Design note: docs/design/network.md.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from swarmpy.errors import Internal, InvalidArgument, Unavailable
from swarmpy.network import conntrack
from swarmpy.network.claims import NameClaim, PortClaims
from swarmpy.network.echo import EchoSocket
from swarmpy.network.kernel import Handles, KernelThread
from swarmpy.network.mesh_kernel import MeshKernel
from swarmpy.network.mesh_rules import PublishedKey, Route, reseat
from swarmpy.network.overlay import OverlayNames
from swarmpy.network.reachability import Reachability
from swarmpy.network.view import NO_VIEW, MeshView
from swarmpy.network.view_index import ViewIndex, Withdrawn

__all__ = ["Mesh", "checked_prefix", "ingress_bridge"]

log = logging.getLogger(__name__)


def checked_prefix(prefix: str) -> str:
    """A prefix short enough for link names (15 bytes, IFNAMSIZ - 1). InvalidArgument otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,5}", prefix):
        raise InvalidArgument(f"network prefix {prefix!r} must be 1 to 6 lower-case letters and digits, a letter first")
    return prefix


def ingress_bridge(prefix: str) -> str:
    return f"{prefix}-ing"


class Mesh:
    """See the module. All methods may be called from several tasks; they take turns."""

    def __init__(self, name_prefix: str) -> None:
        names = OverlayNames(ingress_bridge(checked_prefix(name_prefix)), f"{name_prefix}-vx")
        self._held = MeshKernel(names, f"{name_prefix}-mesh")
        self._kernel = KernelThread("mesh")
        self._watcher = KernelThread("mesh-watch")  # only looks
        self._turn = asyncio.Lock()
        self._view = NO_VIEW
        self._index = ViewIndex()
        self._reachability = Reachability()
        self._echo: EchoSocket | None = None
        self._name_claim: NameClaim | None = None
        self._claims = PortClaims()
        self._withdrawn: dict[IPv4Address, Withdrawn] = {}
        self._recalled = False  # what an earlier daemon left in the kernel was looked at
        self._settled = False  # everything of the view is in the kernel, if others leave it there

    @property
    def blocked(self) -> Mapping[PublishedKey, str]:
        """Published ports this node leaves to a process of its own that was first, with the reason."""
        return dict(self._claims.blocked)

    @property
    def silent(self) -> frozenset[IPv4Address]:
        """Backends on other nodes that do not answer. They get no connections while others of their service do."""
        return self._reachability.silent

    async def apply(self, view: MeshView) -> None:
        """The kernel agrees with `view`. New connections go to its tasks alone; established ones are left alone.

        Raises Conflict when another mesh or VXLAN device is in the way; the next call starts from what the kernel has.
        """
        async with self._turn:
            await self._apply(view)

    async def glance(self) -> bool:
        """To be called every second or so: put right what others changed, as far as it shows at a glance, and leave
        out backends that do not answer. Whether anything had been changed.

        Looks without taking a turn: where the kernel lets readers wait, what `apply` has to withdraw must not.
        """
        if self._view.ingress is None:
            return False
        await self._ask_backends()
        return not (self._settled and await self._watcher.run(self._held.undisturbed)) and await self._repair()

    async def audit(self) -> bool:
        """Compare everything with the kernel and put right what differs, forget withdrawn backends that no connection
        needs, and take ports that were freed. Whether others had changed anything."""
        if self._view.ingress is None:
            return False
        await self._forget_idle()
        await self._take_freed_ports()
        return not (self._settled and await self._watcher.run(self._held.agrees)) and await self._repair()

    async def release(self) -> None:
        """Let go without touching the kernel: the daemon ends, the mesh goes on."""
        async with self._turn:
            self._let_names_go()
            await self._end_threads()

    async def close(self) -> None:
        """Nothing of the mesh is left in the kernel."""
        async with self._turn:
            await self._apply(NO_VIEW)
            await self._end_threads()

    # -------------------------------------------------------------------------------------------- in turn

    async def _apply(self, view: MeshView) -> None:
        if view.ingress is not None and self._name_claim is None:
            self._name_claim = NameClaim("mesh", "another swarm node runs its routing mesh in this network namespace")
        before, self._view = self._view, view
        touched = self._index.move(view)
        touched.addresses |= self._note_withdrawn(before, touched.left)
        if view.ingress is None:
            self._settled = self._recalled = False
            await self._remove()
            return
        for address in touched.addresses:
            if self._index.is_remote_backend(address):
                self._reachability.watch(address)
            else:
                self._reachability.forget(address)
        if view.ingress == before.ingress and self._settled:
            await self._change(touched.ports, touched.addresses)
        else:
            if not self._recalled:
                await self._recall()
            await self._settle()

    async def _recall(self) -> None:
        """Backends that the daemon before this one still knew, and that left meanwhile, may have connections too."""
        ports = frozenset(self._index.published())
        for address, vtep in (await self._kernel.run(self._held.entries)).items():
            if self._index.is_vtep(vtep) and not self._index.holds(address):
                self._withdrawn[address] = Withdrawn(vtep, ports)
        self._recalled = True

    async def _change(self, ports: Collection[PublishedKey], addresses: Collection[IPv4Address] = ()) -> None:
        """The kernel agrees with the view as far as these published ports and addresses go."""
        self._settled = False
        await self._kernel.run(self._hold, [key for key in ports if self._index.port(key) is not None])
        routes = {key: route for key in ports if (route := self._route(key)) != self._held.route(key)}
        try:
            if ahead := self._withdrawals(routes):
                await self._kernel.run(self._held.change, {}, ahead)
            await self._kernel.run(self._held.change, {a: self._vtep(a) for a in addresses}, routes)
        except (Internal, Unavailable) as refusal:
            log.warning("the routing mesh in the kernel is not as it was left, and is made anew: %s", refusal)
            await self._settle()
            return
        self._claims.release(key for key in ports if self._index.port(key) is None)
        await self._forget_flows(routes)
        self._settled = True

    def _withdrawals(self, routes: Mapping[PublishedKey, Route | None]) -> dict[PublishedKey, Route | None]:
        """As far as these routes can go before backends are made known that are not yet.

        Links are changed under a lock of the whole machine (rtnl), which others may hold for seconds. A task that is
        about to end must not be sent connections for as long.
        """
        ahead: dict[PublishedKey, Route | None] = {}
        for key, route in routes.items():
            had = self._held.route(key)
            if route is None or had is None:
                continue
            known = frozenset(a for a in route.backends if self._index.vtep(a) is None or self._held.reaches(a))
            if known and len(known) < len(route.backends) and not known.issuperset(had.backends):
                ahead[key] = Route(route.target, reseat(had.backends, known))
        return ahead

    async def _settle(self) -> bool:
        """The kernel agrees with the view, whatever it held. Whether others had changed it."""
        assert self._view.ingress is not None
        self._settled = False
        published = list(self._index.published())
        await self._kernel.run(self._hold, published)
        entries = {address: self._vtep(address) for address in (*self._index.addresses(), *self._withdrawn)}
        routes = {key: self._route(key) for key in published}
        others = await self._kernel.run(
            self._held.settle, self._view.ingress,
            {address: vtep for address, vtep in entries.items() if vtep is not None},
            {key: route for key, route in routes.items() if route is not None},
        )  # fmt: skip
        self._claims.release(key for key in self._claims if self._index.port(key) is None)
        await self._forget_flows(routes)
        self._settled = True
        return others

    async def _remove(self) -> None:
        await self._kernel.run(self._held.remove)
        self._let_names_go()

    def _let_names_go(self) -> None:
        """Claims and the socket: what goes without the kernel's tables."""
        self._claims.release(self._claims)
        if self._echo is not None:
            self._echo.close()
            self._echo = None
        if self._name_claim is not None:
            self._name_claim.release()
            self._name_claim = None

    def _route(self, key: PublishedKey) -> Route | None:
        """Where the published port leads now; None when it is published no more, or left to the host."""
        found = self._index.port(key)
        if found is None or key in self._claims.blocked:
            return None
        service_id, port = found
        backends = self._index.backends(service_id)
        answering = frozenset(filter(self._reachability.answers, backends))
        had = self._held.route(key)
        return Route(port.target, reseat(had.backends if had else (), answering or backends))

    def _vtep(self, address: IPv4Address) -> IPv4Address | None:
        """The VTEP to send to, also while the address lingers."""
        if address in self._withdrawn:
            return self._withdrawn[address].vtep
        return self._index.vtep(address)

    def _note_withdrawn(self, before: MeshView, left: Mapping[IPv4Address, Withdrawn]) -> set[IPv4Address]:
        """Remember backends that left the view; which of those remembered are not to linger any more."""
        if self._view.ingress is None or self._view.ingress != before.ingress:
            self._withdrawn.clear()
            return set()
        self._withdrawn |= left
        over = {
            address
            for address, item in self._withdrawn.items()
            if self._index.holds(address) or not self._index.is_vtep(item.vtep)
        }
        for address in over:
            del self._withdrawn[address]
        return over

    async def _forget_idle(self) -> None:
        """No backend lingers without a connection to it."""
        lingering = dict(self._withdrawn)
        ports = {port for item in lingering.values() for port in item.ports}
        busy = await self._watcher.run(conntrack.has_flows, ports) if ports else set()
        async with self._turn:
            idle = {a for a, item in lingering.items() if a not in busy and self._withdrawn.get(a) is item}
            for address in idle:
                del self._withdrawn[address]
            if idle and self._settled:
                await self._change((), idle)

    async def _take_freed_ports(self) -> None:
        async with self._turn:
            if self._settled:
                await self._change(self._claims.wanting())

    async def _repair(self) -> bool:
        async with self._turn:
            return self._view.ingress is not None and await self._settle()

    async def _end_threads(self) -> None:
        await self._kernel.close()
        await self._watcher.close()

    async def _forget_flows(self, routes: Mapping[PublishedKey, Route | None]) -> None:
        """UDP flows to these ports go to backends of now. After the rules: a packet that comes is decided by them."""
        live = {
            key: frozenset((address, route.target) for address in route.backends) if route is not None else frozenset()
            for key, route in routes.items()
            if key[0] == "udp"
        }
        if live:
            await self._kernel.run(conntrack.forget_flows, live)

    async def _ask_backends(self) -> None:
        """One round of questions. What is silent now, or no more, shows in the rules at once."""
        if self._echo is None:
            self._echo = await self._watcher.run(_echo_socket)
        echo, before = self._echo, self._reachability.silent
        asked = self._reachability.round(await self._watcher.run(lambda _: echo.answers()))
        await self._watcher.run(lambda _: echo.ask(asked))
        after = self._reachability.silent
        if before == after:
            return
        for verb, addresses in (("do not answer", after - before), ("answer", before - after)):
            if addresses:
                log.warning("backends on other nodes %s: %s", verb, ", ".join(str(a) for a in sorted(addresses)))
        async with self._turn:
            if self._settled:
                await self._change({port for address in before ^ after for port in self._index.ports_to(address)})

    def _hold(self, _: Handles, ports: Iterable[PublishedKey]) -> None:
        self._claims.hold(ports)


def _echo_socket(_: Handles) -> EchoSocket:
    """Made on the kernel's thread: that is in the network namespace."""
    return EchoSocket()
