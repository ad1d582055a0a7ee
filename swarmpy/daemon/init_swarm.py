"""The first objects of a new swarm: what `swarm init` puts into an empty store. Pure but for ids and keys it draws."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from swarmpy.api.swarm_node import InitRequest
from swarmpy.daemon.swarm_state import SwarmState
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.identity import Issued, Lock, UnlockKey, new_key
from swarmpy.identity.certificates import expires_ns, key_pem, load_certificate, pem
from swarmpy.manager.ca import create_root_ca, issuer_of, node_lifetime_ns
from swarmpy.manager.control.specs import check_cluster
from swarmpy.manager.store import IdSource, Transaction
from swarmpy.rpc.types_pb2 import Cluster, ManagerStatus, Node, NodeRole, NodeSpec, NodeStatus

__all__ = ["NewSwarm", "check_init", "new_swarm"]

DEFAULT_POOL = "10.0.0.0/8"
DEFAULT_SUBNET_SIZE = 24
DEFAULT_DATA_PATH_PORT = 4789           # IANA's for VXLAN (RFC 7348)
DATA_PATH_PORTS = range(1024, 49152)
LARGEST_SUBNET_SIZE = 29


@dataclass(frozen=True, slots=True)
class NewSwarm:
    """A swarm that is not there yet: its first node's certificate, and its cluster object."""

    node_id: str
    issued: Issued
    cluster: Cluster
    availability: NodeSpec.Availability

    def first_transaction(self, state: SwarmState) -> Transaction:
        """Everything the store holds when the swarm begins."""
        transaction = Transaction()
        transaction.put(
            self.cluster,
            Node(
                id=self.node_id,
                spec=NodeSpec(role=NodeRole.MANAGER, availability=self.availability),
                role=NodeRole.MANAGER,
                status=NodeStatus(state=NodeStatus.UNKNOWN, addr=state.advertise_ip),
                manager=ManagerStatus(raft_id=state.raft_id, addr=state.advertise_addr),
                certificate_expires_ns=expires_ns(load_certificate(self.issued.certificate)),
            ),
        )
        return transaction


def check_init(request: InitRequest) -> None:
    """Raises InvalidArgument or NotSupported with the field's name, before anything is done."""
    check_cluster(request.spec)
    if request.spec.ca.signing_cert_pem or request.spec.ca.signing_key_pem:
        raise NotSupported("CAConfig.SigningCACert: a swarm begins with a root of its own; rotate to another one later")
    if request.data_path_port and request.data_path_port not in DATA_PATH_PORTS:
        raise InvalidArgument(f"DataPathPort {request.data_path_port}: must be from 1024 to 49151")
    size = request.subnet_size or DEFAULT_SUBNET_SIZE
    pools: list[ipaddress.IPv4Network] = []
    for text in request.default_addr_pool:
        try:
            pool = ipaddress.IPv4Network(text)
        except ValueError as failure:
            raise InvalidArgument(f"DefaultAddrPool {text}: must be an IPv4 network such as 10.0.0.0/8") from failure
        if not pool.prefixlen <= size <= LARGEST_SUBNET_SIZE:
            fit = f"{pool.prefixlen} (of {text}) to {LARGEST_SUBNET_SIZE}"
            raise InvalidArgument(f"SubnetSize {size}: must be from {fit}")
        if any(pool.overlaps(other) for other in pools):
            raise InvalidArgument(f"DefaultAddrPool {text}: overlaps another pool")
        pools.append(pool)
    node_lifetime_ns(request.spec.ca)


def new_swarm(request: InitRequest, now_ns: int, new_id: IdSource) -> NewSwarm:
    """Draw the ids, the root, the tokens and the first node's certificate."""
    root_ca, node_id, swarm_id, key = create_root_ca(now_ns), new_id(), new_id(), new_key()
    leaf = issuer_of(root_ca).issue(
        key.public_key(),
        node_id=node_id,
        role=NodeRole.MANAGER,
        swarm_id=swarm_id,
        now_ns=now_ns,
        lifetime_ns=node_lifetime_ns(request.spec.ca),
    )
    cluster = Cluster(
        id=swarm_id,
        spec=request.spec,
        root_ca=root_ca,
        default_addr_pool=request.default_addr_pool or (DEFAULT_POOL,),
        subnet_size=request.subnet_size or DEFAULT_SUBNET_SIZE,
        data_path_port=request.data_path_port or DEFAULT_DATA_PATH_PORT,
    )
    cluster.spec.annotations.name = "default"
    cluster.root_ca.last_forced_rotation = request.spec.ca.force_rotate
    unlock_key = UnlockKey.generate() if request.spec.autolock_managers else None
    if unlock_key is not None:
        cluster.unlock_key = str(unlock_key)
    issued = Issued(key_pem(key), pem(leaf), root_ca.cert_pem.encode(), Lock(unlock_key))
    return NewSwarm(node_id, issued, cluster, request.availability)
