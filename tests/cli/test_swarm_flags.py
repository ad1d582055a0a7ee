"""The flags of `swarm init`, `update` and `ca`, and what they make of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.flags import apply
from swarmpy.cli.swarm import CA, SPEC


def test_the_spec_they_make(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM")
    spec: dict[str, Any] = {"Raft": {"ElectionTick": 10}}
    apply(spec, SPEC, {
        "task_history_limit": 3, "dispatcher_heartbeat": "2s", "cert_expiry": "48h", "snapshot_interval": 9,
        "max_snapshots": 2, "autolock": False,
        "external_ca": [f"protocol=cfssl,url=https://ca.example,cacert={tmp_path}/ca.pem,label=x"],
    })  # fmt: skip
    assert spec == {
        "Orchestration": {"TaskHistoryRetentionLimit": 3},
        "Dispatcher": {"HeartbeatPeriod": 2 * 10**9},
        "CAConfig": {
            "NodeCertExpiry": 48 * 3600 * 10**9,
            "ExternalCAs": [
                {"Protocol": "cfssl", "URL": "https://ca.example", "CACert": "PEM", "Options": {"label": "x"}}
            ],
        },
        "Raft": {"ElectionTick": 10, "SnapshotInterval": 9, "KeepOldSnapshots": 2},
        "EncryptionConfig": {"AutoLockManagers": False},
    }
    apply(spec, CA, {"ca_cert": str(tmp_path / "ca.pem"), "ca_key": str(tmp_path / "ca.pem")})
    assert (spec["CAConfig"]["SigningCACert"], spec["CAConfig"]["SigningCAKey"]) == ("PEM", "PEM")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"external_ca": ["cfssl"]}, "'cfssl' is not NAME=VALUE"),
        ({"external_ca": ["url=https://ca.example"]}, "protocol=… is missing"),
        ({"external_ca": ["protocol=cfssl"]}, "url=… is missing"),
        ({"external_ca": ["protocol=cfssl,url=u,cacert=/nowhere"]}, "--external-ca: /nowhere: No such file"),
        ({"cert_expiry": "long"}, "--cert-expiry: 'long' is not a duration"),
    ],
)
def test_a_refusal_names_its_flag(given: dict[str, Any], text: str) -> None:
    with pytest.raises(WrongFlag, match=text):
        apply({}, SPEC, given)
