"""What the host network remembers across a restart of the daemon: one small file per container, and its subnet.

A file is replaced by rename(2), so a reader sees the old or the new. Nothing is synced to disk: after a crash of the
machine the containers these files speak of are gone as well.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from swarmpy.errors import Internal
from swarmpy.network.endpoint import EndpointRecord

__all__ = ["Records"]


class Records:
    """The files under one directory. Every method may block on the disk."""

    def __init__(self, directory: Path) -> None:
        self._endpoints = directory / "endpoints"
        self._subnet = directory / "bridge-subnet"

    def read(self) -> dict[str, EndpointRecord]:
        """All records by container id. Internal, naming the file, when one cannot be understood."""
        records = {}
        for path in sorted(self._endpoints.glob("*.json")):
            try:
                record = EndpointRecord.from_json(path.read_text())
            except (ValueError, KeyError, TypeError) as error:
                raise Internal(f"network record {path} cannot be read ({error}); remove it and restart") from error
            records[record.container_id] = record
        return records

    def save(self, record: EndpointRecord) -> None:
        """What the container has; no file when that is nothing."""
        path = self._endpoints / f"{record.container_id}.json"
        if record.endpoints:
            _replace(path, record.to_json())
        else:
            path.unlink(missing_ok=True)

    def subnet(self) -> IPv4Network | None:
        """The bridge's subnet as last chosen."""
        try:
            return IPv4Network(self._subnet.read_text())
        except FileNotFoundError:
            return None

    def remember_subnet(self, subnet: IPv4Network) -> None:
        _replace(self._subnet, str(subnet))

    def forget_subnet(self) -> None:
        self._subnet.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(text)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(text)
    fresh.replace(path)
