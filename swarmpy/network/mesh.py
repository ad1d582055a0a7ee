"""The routing mesh of one node: every published port of the swarm, answered here, in the kernel.

Owns    the links `<prefix>-ing` (bridge) and `<prefix>-vx` (VXLAN), the table `<prefix>-mesh`, claims on the published
        ports. All of it is derived from the last view and can be rebuilt from it.
In      MeshView values; the newest alone counts.
Out     the kernel's tables, changed by the smallest difference.

Design note: docs/design/network.md.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.network import conntrack, mesh_rules, overlay
from swarmpy.network.claims import NameClaim, PortClaim
from swarmpy.network.kernel import Handles, KernelThread, write_sysctl
from swarmpy.network.mesh_links import LinkState, Remote, entry_changes, remotes
from swarmpy.network.ruleset import FAMILY, Ruleset, change, observed
from swarmpy.network.view import NO_VIEW, MeshView

__all__ = ["Mesh", "checked_prefix", "ingress_bridge"]

PublishedKey = tuple[str, int]


def checked_prefix(prefix: str) -> str:
    """A prefix short enough for link names (15 bytes, IFNAMSIZ - 1). InvalidArgument otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,5}", prefix):
        raise InvalidArgument(f"network prefix {prefix!r} must be 1 to 6 lower-case letters and digits, a letter first")
    return prefix


def ingress_bridge(prefix: str) -> str:
    return f"{prefix}-ing"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A remote address without a task, kept known while connections to it may still be open."""

    remote: Remote
    ports: frozenset[PublishedKey]


class Mesh:
    """See the module. All methods may be called from several tasks; they take turns."""

    def __init__(self, name_prefix: str) -> None:
        self._names = overlay.OverlayNames(ingress_bridge(checked_prefix(name_prefix)), f"{name_prefix}-vx")
        self._table = f"{name_prefix}-mesh"
        self._kernel = KernelThread("mesh")
        self._turn = asyncio.Lock()
        self._view = NO_VIEW
        self._name_claim: NameClaim | None = None
        self._claims: dict[PublishedKey, PortClaim] = {}
        self._blocked: dict[PublishedKey, str] = {}
        self._links: LinkState | None = None  # None: not known, the kernel must be asked
        self._rules: Ruleset | None = None
        self._withdrawn: dict[IPv4Address, Withdrawn] = {}

    @property
    def blocked(self) -> Mapping[PublishedKey, str]:
        """Published ports this node leaves to a process of its own that was first, with the reason."""
        return dict(self._blocked)

    async def apply(self, view: MeshView) -> None:
        """The kernel agrees with `view`. New connections go to its tasks alone; established ones are left alone.

        Raises Conflict when another mesh or VXLAN device is in the way; the next call starts from what the kernel has.
        """
        async with self._turn:
            await self._apply(view)

    async def audit(self) -> bool:
        """Put right what others changed in the kernel, and take ports that were freed; whether anything was wrong."""
        async with self._turn:
            links, rules = self._links, self._rules
            await self._forget_idle()
            await self._read_kernel()
            expected = links and replace(links, ingress=None)
            wrong = (expected, rules) != (self._links, self._rules)
            await self._apply(self._view)
            return links is not None and wrong

    async def release(self) -> None:
        """Let go without touching the kernel: the daemon ends, the mesh goes on."""
        async with self._turn:
            await self._let_go()

    async def close(self) -> None:
        """Nothing of the mesh is left in the kernel."""
        async with self._turn:
            await self._read_kernel()
            await self._apply(NO_VIEW)
            await self._let_go()

    async def _apply(self, view: MeshView) -> None:
        if view.ingress is not None and self._name_claim is None:
            self._name_claim = NameClaim("mesh", "another swarm node runs its routing mesh in this network namespace")
        before = self._view
        try:
            if self._links is None:
                await self._read_kernel()
            await self._apply_links(view)
            self._claim_ports(view)
            await self._apply_rules(view)
            self._release_ports(view)
            await self._forget_flows(before, view)
        except BaseException:
            self._links = None  # failed or cancelled half-way: the next call asks the kernel
            raise
        finally:
            self._view = view
        if view.ingress is None and self._name_claim is not None:
            self._name_claim.release()
            self._name_claim = None

    async def _apply_links(self, view: MeshView) -> None:
        self._note_withdrawn(view)
        known = {item.address: item for item in remotes(view)}
        lingering = {address: item.remote for address, item in self._withdrawn.items()}
        wanted = LinkState.of(view.ingress, {**lingering, **known}.values())
        had, self._links = self._links or LinkState(), None
        await self._kernel.run(_change_links, self._names, had, wanted)
        self._links = wanted

    def _note_withdrawn(self, view: MeshView) -> None:
        """Remember remote tasks that left the view, unless their node or the network left too."""
        current = remotes(view)
        addresses, vteps = {item.address for item in current}, {item.vtep for item in current}
        if view.ingress is None or view.ingress != self._view.ingress:
            self._withdrawn.clear()
            return
        services = {task.address: task.service_id for task in self._view.tasks.values()}
        for remote in remotes(self._view):
            if remote.address not in addresses:
                ports = self._view.services.get(services.get(remote.address, ""), ())
                used = frozenset((port.protocol, port.published) for port in ports)
                self._withdrawn[remote.address] = Withdrawn(remote, used)
        local = {task.address for task in view.tasks.values() if task.node_id == view.node_id}
        for address, item in list(self._withdrawn.items()):
            if address in addresses or address in local or item.remote.vtep not in vteps:
                del self._withdrawn[address]

    async def _forget_idle(self) -> None:
        ports = frozenset[PublishedKey]().union(*(item.ports for item in self._withdrawn.values()))
        busy = await self._kernel.run(conntrack.has_flows, ports) if ports else set()
        self._withdrawn = {address: item for address, item in self._withdrawn.items() if address in busy}

    def _claim_ports(self, view: MeshView) -> None:
        self._blocked = {}
        for key in mesh_rules.published(view) if view.ingress else ():
            if key in self._claims:
                continue
            try:
                self._claims[key] = PortClaim(key[0], "0.0.0.0", key[1])
            except Conflict as refusal:
                self._blocked[key] = str(refusal)

    def _release_ports(self, view: MeshView) -> None:
        wanted = mesh_rules.published(view) if view.ingress else {}
        for key in [key for key in self._claims if key not in wanted]:
            self._claims.pop(key).release()

    async def _apply_rules(self, view: MeshView) -> None:
        wanted = mesh_rules.render(self._table, self._names.bridge, view, self._blocked.keys())
        await self._kernel.run(_run_nftables, change(self._rules, wanted))
        self._rules = wanted

    async def _forget_flows(self, before: MeshView, view: MeshView) -> None:
        """After the rules: a packet that comes now is decided by them."""
        had, has = _udp_backends(before), _udp_backends(view)
        for key in had.keys() | has.keys():
            live = has.get(key, frozenset())
            if had.get(key, frozenset()) != live:
                await self._kernel.run(conntrack.forget_flows, [key], lambda backend, live=live: backend not in live)

    async def _read_kernel(self) -> None:
        self._links, self._rules = await self._kernel.run(_read, self._names, self._table)

    async def _let_go(self) -> None:
        for claim in self._claims.values():
            claim.release()
        self._claims.clear()
        if self._name_claim is not None:
            self._name_claim.release()
            self._name_claim = None
        await self._kernel.close()


def _udp_backends(view: MeshView) -> dict[PublishedKey, frozenset[IPv4Address]]:
    backends = mesh_rules.backends_of(view)
    return {
        key: frozenset(backends.get(service_id, ()))
        for key, (service_id, _) in mesh_rules.published(view).items()
        if key[0] == "udp"
    }


def _run_nftables(handles: Handles, commands: list[dict[str, object]]) -> None:
    handles.nftables.run(commands)


def _read(handles: Handles, names: overlay.OverlayNames, table: str) -> tuple[LinkState, Ruleset | None]:
    """What the kernel holds. The devices themselves count as unknown, so that the next change looks after them too."""
    listed = handles.nftables.list_table(FAMILY, table)
    rules = observed(table, listed) if listed is not None else None
    return overlay.read_entries(handles, names), rules


def _change_links(handles: Handles, names: overlay.OverlayNames, had: LinkState, wanted: LinkState) -> None:
    if wanted.ingress is None:
        overlay.remove_devices(handles, names)
        return
    if had.ingress != wanted.ingress:
        write_sysctl("net/ipv4/ip_forward", "1")
        overlay.ensure_devices(handles, names, wanted.ingress)
        had = overlay.read_entries(handles, names)
    overlay.change_entries(handles, names, entry_changes(had, wanted))
