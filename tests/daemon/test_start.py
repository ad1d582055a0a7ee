"""Before the daemon does anything: command line, data root, what it remembers, what it says."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from swarmpy.api.swarm_node import InitRequest
from swarmpy.daemon.config import parse_arguments
from swarmpy.daemon.data_root import lock_data_root
from swarmpy.daemon.init_swarm import check_init, new_swarm
from swarmpy.daemon.log import LogfmtFormatter
from swarmpy.daemon.swarm_state import SwarmState, forget_swarm, load_state, save_state
from swarmpy.errors import Conflict, Internal, InvalidArgument, NotSupported
from swarmpy.identity import JoinToken
from swarmpy.identity.certificates import load_certificate, node_id_of, role_of
from swarmpy.rpc.types_pb2 import CAConfig, ClusterSpec, NodeRole, NodeSpec

STATE = SwarmState("0.0.0.0:2377", "192.0.2.1:2377", "192.0.2.1", ("192.0.2.1:2377",), raft_id=7, voter=True)


def request(**changes: object) -> InitRequest:
    fields: dict[str, object] = {
        "listen_addr": "", "advertise_addr": "", "data_path_addr": "", "data_path_port": 0, "default_addr_pool": (),
        "subnet_size": 0, "force_new_cluster": False, "availability": NodeSpec.ACTIVE, "spec": ClusterSpec(),
    }
    return InitRequest(**{**fields, **changes})  # type: ignore[arg-type]  # tests name real fields


def test_the_command_line() -> None:
    config = parse_arguments(["--data-root", "/d", "--host", "unix:///s", "--label", "disk=ssd", "--node-name", "n"])
    assert (config.swarm_dir, config.hosts, config.labels) == (Path("/d/swarm"), ("unix:///s",), (("disk", "ssd"),))
    assert parse_arguments([]).hosts == ("unix:///run/swarmpy.sock",)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "tcp://0.0.0.0:2375"], "needs client certificates"),
        (["--host", "/run/x.sock"], "must be unix:///path or tcp://ip:port"),
        (["--label", "=x"], "KEY=VALUE"),
        (["--network-prefix", "much-too-long"], "--network-prefix"),
        (["--cgroup-parent", "x"], "--cgroup-parent"),
    ],
)
def test_a_wrong_command_line_is_named(arguments: list[str], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        parse_arguments(arguments)


def test_one_daemon_per_data_root(tmp_path: Path) -> None:
    first = lock_data_root(tmp_path / "data")
    with pytest.raises(Conflict, match=f"in use by another swarmpyd .pid {os.getpid()}."):
        lock_data_root(tmp_path / "data")
    os.close(first)
    os.close(lock_data_root(tmp_path / "data"))


def test_the_state_comes_back(tmp_path: Path) -> None:
    assert load_state(tmp_path / "swarm") is None
    save_state(tmp_path / "swarm", STATE)
    assert load_state(tmp_path / "swarm") == STATE
    assert (tmp_path / "swarm").stat().st_mode & 0o777 == 0o700
    (tmp_path / "swarm" / "state.json").write_text('{"listen_addr": 1')
    with pytest.raises(Internal, match="damaged"):
        load_state(tmp_path / "swarm")
    forget_swarm(tmp_path / "swarm")
    assert load_state(tmp_path / "swarm") is None


def test_a_new_swarm_has_everything() -> None:
    swarm = new_swarm(request(), 10**18, iter(["node", "cluster"]).__next__)
    leaf = load_certificate(swarm.issued.certificate)
    assert (node_id_of(leaf), role_of(leaf)) == (swarm.node_id, NodeRole.MANAGER)
    cluster = swarm.cluster
    assert (cluster.data_path_port, cluster.subnet_size, list(cluster.default_addr_pool)) == (4789, 24, ["10.0.0.0/8"])
    tokens = [JoinToken.parse(text) for text in (cluster.root_ca.join_token_worker, cluster.root_ca.join_token_manager)]
    digest = bytes.fromhex(cluster.root_ca.digest.removeprefix("sha256:"))
    assert tokens[0].root_digest == tokens[1].root_digest == digest
    assert tokens[0].secret != tokens[1].secret
    assert len(swarm.first_transaction(STATE)) == 2


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"data_path_port": 80}, InvalidArgument, "DataPathPort 80"),
        ({"default_addr_pool": ("10.0.0.1/8",)}, InvalidArgument, "DefaultAddrPool"),
        ({"default_addr_pool": ("10.0.0.0/25",)}, InvalidArgument, "SubnetSize 24"),
        ({"default_addr_pool": ("10.0.0.0/8", "10.9.0.0/16")}, InvalidArgument, "10.9.0.0/16: overlaps another pool"),
        ({"spec": ClusterSpec(ca=CAConfig(signing_cert_pem="x"))}, NotSupported, "SigningCACert"),
    ],
)
def test_a_wrong_init_is_refused_before_anything_happens(
    changes: dict[str, object], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        check_init(request(**changes))


def test_log_lines_are_pairs() -> None:
    record = logging.makeLogRecord(
        {"name": "swarmpy.daemon.node", "levelname": "INFO", "msg": "joined a %s", "args": ("swarm",), "node": "n 1"}
    )
    line = LogfmtFormatter().format(record)
    assert line.endswith('level=info room=daemon.node msg="joined a swarm" node="n 1"')
    assert json.loads('"n 1"') == "n 1"


def test_registries_are_settings_of_the_daemon() -> None:
    config = parse_arguments(
        ["--insecure-registry", "10.0.0.0/8", "--insecure-registry", "lab:5000", "--registry-mirror=https://mirror:5000"]
    )
    assert config.insecure_registries == ("10.0.0.0/8", "lab:5000")
    assert config.registry_mirror == "https://mirror:5000"
    with pytest.raises(InvalidArgument, match="--registry-mirror mirror:5000"):
        parse_arguments(["--registry-mirror", "mirror:5000"])
