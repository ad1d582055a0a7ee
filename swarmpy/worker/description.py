"""What a node says of itself: its host, its resources, its engine and its trust root."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarmpy.rpc.types_pb2 import NodeDescription, Platform, PluginDescription, Resources

__all__ = ["describe_host", "memory_bytes"]

_PLUGINS = (
    ("Log", "json-file"), ("Log", "none"), ("Network", "bridge"), ("Network", "host"), ("Network", "null"),
    ("Network", "overlay"), ("Volume", "local"),
)


def memory_bytes(meminfo: str) -> int:
    """MemTotal of /proc/meminfo (proc(5)), whose kB are 1024 bytes."""
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def describe_host(
    hostname: str, engine_version: str, engine_labels: Mapping[str, str], root_ca_pem: bytes, issuer: x509.Certificate
) -> NodeDescription:
    """This host now. Reads /proc: call it off the event loop.

    `root_ca_pem` are the roots that this node trusts; `issuer` is the one that signed its certificate.
    """
    return NodeDescription(
        hostname=hostname,
        platform=Platform(architecture=platform.machine(), os="linux"),
        resources=Resources(
            nano_cpus=len(os.sched_getaffinity(0)) * 1_000_000_000,
            memory_bytes=memory_bytes(Path("/proc/meminfo").read_text()),
        ),
        engine_version=engine_version,
        engine_labels=engine_labels,
        plugins=[PluginDescription(type=kind, name=name) for kind, name in _PLUGINS],
        root_ca_pem=root_ca_pem.decode(),
        cert_issuer_subject=issuer.subject.public_bytes(),
        cert_issuer_public_key=issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )
