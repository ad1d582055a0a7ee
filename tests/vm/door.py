"""A machine's public door from outside: the Engine API over TCP with client certificates, and the docker client.

The machines get their half from their seed: /etc/default/swarmpyd with the address, and the certificates it names.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.vm.agent import Outcome
from tests.vm.machine import Machine
from tests.vm.site import Site

__all__ = ["Door", "Keys"]

PORT = 2376
DAY = timedelta(days=1)
DOCKER_S = 300.0
OPTIONS = f"""SWARMPYD_OPTIONS="-H unix:///run/swarmpy.sock -H tcp://0.0.0.0:{PORT} \
--tlscacert /etc/swarmpy/ca.pem --tlscert /etc/swarmpy/cert.pem --tlskey /etc/swarmpy/key.pem"
"""


class Keys:
    """An authority of the test's own, a certificate for the machines and one for their clients."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("authority")
        authority = x509.BasicConstraints(ca=True, path_length=0)
        self.ca = self._sign(_name("authority"), self._key.public_key(), authority)
        names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address)) for address in addresses])
        self.machine = {"ca.pem": self.ca} | self._issue("machine", names)
        self.seed = _archive(
            {"etc/default/swarmpyd": OPTIONS.encode()}
            | {f"etc/swarmpy/{name}": data for name, data in self.machine.items()}
        )
        self._client = {"ca.pem": self.ca} | self._issue("client")

    def write_client(self, directory: Path) -> None:
        """What DOCKER_CERT_PATH leads to."""
        for name, data in self._client.items():
            (directory / name).write_bytes(data)

    def sign(self, name: str, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime) -> bytes:
        """A client's certificate for `key` that holds between two moments, PEM."""
        builder = x509.CertificateBuilder(self._name, _name(name), key, x509.random_serial_number(), start, end)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(self, name: str, *extensions: x509.ExtensionType) -> dict[str, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {"cert.pem": self._sign(_name(name), key.public_key(), *extensions), "key.pem": pem}

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number(), now - DAY, now + DAY)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Door:
    """The docker client on the machines' network, speaking to one of them."""

    def __init__(self, site: Site, machine: Machine, certificates: Path) -> None:
        self._site, self._machine = site, machine
        self._connection = [
            "--tlsverify", f"--tlscacert={certificates}/ca.pem", f"--tlscert={certificates}/cert.pem",
            f"--tlskey={certificates}/key.pem", "--host", f"tcp://{machine.address}:{PORT}",
        ]  # fmt: skip

    def docker(self, *words: str, stdin: bytes | None = None, timeout_s: float = DOCKER_S) -> Outcome:
        argv = self._site.command("docker", *self._connection, *words)
        with tempfile.TemporaryFile() as given:
            given.write(stdin or b"")
            given.seek(0)
            done = subprocess.run(argv, stdin=given, capture_output=True, timeout=timeout_s, check=False)
        command = f"{self._machine.name}: docker {' '.join(words)}"
        return Outcome(command, done.returncode, done.stdout.decode().strip(), done.stderr.decode().strip())

    def until(self, *words: str, shows: str = "", timeout_s: float = DOCKER_S) -> str:
        """What `docker WORDS` prints, once it ends well and that contains `shows`."""
        deadline_s = time.monotonic() + timeout_s
        while (outcome := self.docker(*words)).code != 0 or shows not in outcome.out:
            assert time.monotonic() < deadline_s, f"still not {shows!r} after {timeout_s:g} s: {outcome}"
            time.sleep(0.5)
        return outcome.out


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _archive(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()
