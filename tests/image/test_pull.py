"""Pulling from a real registry: plain, with passwords, with tokens, over bad lines, and many at once."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from swarmpy.errors import Forbidden, InvalidArgument, NotFound, NotSupported, Unavailable
from swarmpy.image import Image, ImageStore, Progress, RegistryAuth, RegistryConfig
from swarmpy.image.registry import parse_challenges
from tests.image.archives import Tar, docker_archive
from tests.image.conftest import RegistryStarter
from tests.image.test_archive import described, skopeo
from tests.image.test_store import blobs, layers

pytestmark = pytest.mark.root

OCI = "application/vnd.oci.image"
QUICK = RegistryConfig(pause=lambda _seconds: asyncio.sleep(0))


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    return hashlib.shake_256(b"%d" % seed).digest(size)


def push(path: Path, registry: str, name: str, layer_data: list[bytes], *options: str) -> None:
    """An image of one file in each layer, pushed by skopeo."""
    layer_tars = [Tar().file(f"file{number}", data).bytes() for number, data in enumerate(layer_data)]
    archive = path / f"{name.replace('/', '_').replace(':', '_')}.tar"
    archive.write_bytes(docker_archive(layer_tars, tags=["x:1"]).bytes())
    skopeo("copy", "--dest-tls-verify=false", *options, f"docker-archive:{archive}", f"docker://{registry}/{name}")


@asynccontextmanager
async def opened(root: Path, config: RegistryConfig = QUICK) -> AsyncIterator[ImageStore]:
    store = ImageStore(root, registries=config)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def pulled(
    store: ImageStore, reference: str, auth: RegistryAuth | None = None, **rest: str
) -> tuple[Image, list[Progress]]:
    told: list[Progress] = []
    return await store.pull(reference, auth, told.append, **rest), told


def test_pull(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "team/app:v1", [noise(3_000_000, 1), b"small"])

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            image, told = await pulled(store, f"{registry}/team/app:v1")
            assert image.references == (f"{registry}/team/app:v1",)
            (digest,) = image.digests
            assert digest == f"{registry}/team/app@{image.manifest}"
            rootfs = await store.prepare(image, "c")
            assert rootfs.lower[1].joinpath("file0").read_bytes() == noise(3_000_000, 1)
            assert rootfs.lower[0].joinpath("file1").read_bytes() == b"small"

            texts = [line.status for line in told]
            assert texts[0] == "Pulling from team/app" and told[0].id == "v1"
            assert texts[-2:] == [
                f"Digest: {image.manifest}",
                f"Status: Downloaded newer image for {registry}/team/app:v1",
            ]
            big = max((line for line in told if line.status == "Downloading"), key=lambda line: line.total or 0)
            assert len(big.id) == 12 and big.total is not None and big.total > 3_000_000
            steps = [line.status for line in told if line.id == big.id]
            order = [
                "Pulling fs layer",
                "Downloading",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete",
            ]
            assert list(dict.fromkeys(steps)) == order
            counts = [line.current or 0 for line in told if line.id == big.id and line.status == "Downloading"]
            assert counts == sorted(counts) and counts[-1] == big.total

            again, told = await pulled(store, f"{registry}/team/app:v1")
            assert again.id == image.id
            assert {line.status for line in told if len(line.id) == 12} == {"Already exists"}
            assert told[-1].status == f"Status: Image is up to date for {registry}/team/app:v1"
            by_digest, _ = await pulled(store, digest)
            assert by_digest.id == store.resolve(digest).id == image.id

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "options", [["--format=oci"], ["--format=v2s2"], ["--format=oci", "--dest-compress-format=zstd"]]
)
def test_manifest_and_layer_formats(tmp_path: Path, registry: str, options: list[str]) -> None:
    push(tmp_path, registry, "app:v1", [b"one" * 1000, b"two" * 1000], *options)

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            image, _ = await pulled(store, f"{registry}/app:v1")
            rootfs = await store.prepare(image, "c")
            assert rootfs.lower[0].joinpath("file1").read_bytes() == b"two" * 1000
            data = b"".join([piece async for piece in store.save([f"{registry}/app:v1"])])
            (tmp_path / "a.tar").write_bytes(data)
            config = await asyncio.to_thread(
                skopeo, "inspect", "--config", f"docker-archive:{tmp_path}/a.tar:{registry}/app:v1"
            )
            assert json.loads(config)["rootfs"]["diff_ids"] == list(image.layers)
            if "--format=oci" in options:
                found = await asyncio.to_thread(skopeo, "inspect", "--raw", f"oci-archive:{tmp_path}/a.tar:v1")
                assert f"sha256:{hashlib.sha256(found).hexdigest()}" == image.manifest

    asyncio.run(scenario())


async def put(registry: str, repository: str, reference: str, media_type: str, document: Any) -> bytes:
    """Put a manifest that no well-meaning client would."""
    data = json.dumps(document).encode()
    async with aiohttp.ClientSession() as session:
        url = f"http://{registry}/v2/{repository}/manifests/{reference}"
        async with session.put(url, data=data, headers={"Content-Type": media_type}) as response:
            assert response.status == 201, await response.text()
    return data


def test_platforms(tmp_path: Path, registry: str) -> None:
    def manifest(seed: int, architecture: str, variant: str = "") -> bytes:
        layer = Tar().file("f", noise(100, seed)).bytes()
        archive = tmp_path / f"{seed}.tar"
        config = {"os": "linux", "architecture": architecture}
        diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
        config_data = json.dumps(config | {"rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
        outer = Tar().file("c", config_data).file("l", layer)
        archive.write_bytes(
            outer.file("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()).bytes()
        )
        target = f"{registry}/multi:{architecture}{variant}"
        skopeo("copy", "--dest-tls-verify=false", f"docker-archive:{archive}", f"docker://{target}")
        return skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{target}")

    v2s2 = "application/vnd.docker.distribution.manifest.v2+json"
    wanted = [("amd64", ""), ("arm64", ""), ("arm", "v6"), ("arm", "v7")]
    entries = [
        described(
            manifest(seed, *one),
            v2s2,
            platform={"os": "linux", "architecture": one[0], **({"variant": one[1]} if one[1] else {})},
        )
        for seed, one in enumerate(wanted)
    ]

    async def scenario() -> None:
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        index = await put(registry, "multi", "all", kind, {"schemaVersion": 2, "mediaType": kind, "manifests": entries})
        index_digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
        async with opened(tmp_path / "store") as store:
            found = await store.look_up(f"{registry}/multi:all", None)
            assert (found.digest, found.media_type, found.size_bytes) == (index_digest, kind, len(index))
            listed = ["linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7"]
            assert [str(one) for one in found.platforms] == listed
            assert store.list() == []
            for text, entry in (
                ("linux/amd64", 0), ("arm64", 1), ("linux/arm64/v8", 1), ("linux/arm/v7", 3), ("linux/arm/v6", 2),
            ):  # fmt: skip
                image, _ = await pulled(store, f"{registry}/multi:all", platform=text)
                assert image.manifest == entries[entry]["digest"]
                assert image.digests == (f"{registry}/multi@{index_digest}",)
            with pytest.raises(NotFound, match="linux/s390x; it has linux/amd64, linux/arm64"):
                await pulled(store, f"{registry}/multi:all", platform="linux/s390x")
            with pytest.raises(NotFound, match="linux/arm64; it has linux/amd64"):
                await pulled(store, f"{registry}/multi:amd64", platform="linux/arm64")
            with pytest.raises(InvalidArgument, match="platform"):
                await pulled(store, f"{registry}/multi:all", platform="a/b/c/d")

    asyncio.run(scenario())


def test_passwords(tmp_path: Path, start_registry: RegistryStarter) -> None:
    registry = start_registry("auth: {htpasswd: {realm: here, path: PLACE/htpasswd}}\n")
    push(tmp_path, registry, "secret/app:v1", [b"one"], "--dest-creds=tester:open sesame")

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            image, _ = await pulled(store, f"{registry}/secret/app:v1", RegistryAuth("tester", "open sesame"))
            assert image.references
            for auth in (None, RegistryAuth("tester", "wrong-password"), RegistryAuth(registry_token="made up")):
                with pytest.raises(Forbidden, match=r"pull access denied for .*/secret/app") as caught:
                    await pulled(store, f"{registry}/secret/app:v1", auth)
                assert "wrong-password" not in str(caught.value) and "made up" not in str(caught.value)
        assert "open sesame" not in repr(RegistryAuth("tester", "open sesame", "open sesame", "open sesame"))

    asyncio.run(scenario())


def self_signed(path: Path, host: str = "here") -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A key and a certificate that nobody vouches for; also in `key.pem` and `cert.pem` under `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (path / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return key, certificate


class TokenServer:
    """A token server that docker-registry trusts. Source  Docker Registry v2 authentication via central service."""

    def __init__(self, path: Path) -> None:
        self._key, self._certificate = self_signed(path)
        self.asked: list[tuple[str, dict[str, str], str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        fields = {key: str(value) for key, value in (request.query or await request.post()).items()}
        self.asked.append((request.method, fields, request.headers.get("Authorization", "")))
        known = "Basic " + base64.b64encode(b"tester:open sesame").decode()
        if self.asked[-1][2] != known and fields.get("refresh_token") != "refresh me":
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}, status=401)
        kind, name, actions = fields["scope"].split(":")
        return web.json_response({"token": self._token(fields["service"], kind, name, actions.split(","))})

    def _token(self, service: str, kind: str, name: str, actions: list[str]) -> str:
        def encode(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).decode().rstrip("=")

        der = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        now = int(datetime.datetime.now(datetime.UTC).timestamp())
        claims = {
            "iss": "tokens",
            "sub": "tester",
            "aud": service,
            "exp": now + 60,
            "nbf": now - 60,
            "iat": now,
            "jti": "1",
        }
        claims["access"] = [{"type": kind, "name": name, "actions": actions}]
        signed = ".".join(
            encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "x5c": [der]}, claims)
        )
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_tokens(tmp_path: Path, start_registry: RegistryStarter) -> None:
    tokens = TokenServer(tmp_path)

    async def scenario() -> None:
        async with served(tokens.answer) as address:
            rules = (
                f"realm: 'http://{address}/token', service: here, issuer: tokens, rootcertbundle: {tmp_path}/cert.pem"
            )
            registry = await asyncio.to_thread(start_registry, f"auth: {{token: {{{rules}}}}}\n")
            await asyncio.to_thread(
                push, tmp_path, registry, "t/app:v1", [b"1", b"2"], "--dest-creds=tester:open sesame"
            )
            tokens.asked.clear()
            async with opened(tmp_path / "store") as store:
                image, _ = await pulled(store, f"{registry}/t/app:v1", RegistryAuth("tester", "open sesame"))
                ((method, fields, _),) = tokens.asked  # one token for manifest, configuration and layers
                assert (method, fields["service"], fields["scope"]) == ("GET", "here", "repository:t/app:pull")
                await store.remove(image.id, force=False, in_use=())
                await pulled(store, f"{registry}/t/app:v1", RegistryAuth(identity_token="refresh me"))
                assert tokens.asked[-1][0] == "POST"
                with pytest.raises(Forbidden, match="who are you"):
                    await pulled(store, f"{registry}/t/app:v1")

    asyncio.run(scenario())


@asynccontextmanager
async def served(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """An HTTP server on loopback; yields its address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


class Line:
    """A connection to a registry that can be watched and broken. `cut` bytes pass to the client on each connection."""

    def __init__(self, registry: str, cut: int | None = None) -> None:
        self._host, _, self._port = registry.partition(":")
        self.cut = cut
        self.requests: list[str] = []
        self.connections = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        async with server:
            yield "{}:{}".format(*server.sockets[0].getsockname())

    def asked_for(self, word: str) -> list[str]:
        return [request for request in self.requests if word in request]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection(self._host, int(self._port))

        async def ask() -> None:
            while data := await reader.read(65536):
                self.requests += [data.decode("latin1")] if data.startswith(b"GET") else []
                up_writer.write(data)
            up_writer.write_eof()           # which the registry answers in kind: `open` waits for all connections

        asking = asyncio.create_task(ask())
        carried = 0
        try:
            while data := await up_reader.read(65536):
                writer.write(data if self.cut is None else data[: max(0, self.cut - carried)])
                carried += len(data)
                if self.cut is not None and carried >= self.cut:
                    break
                await writer.drain()
        except ConnectionError:
            return
        finally:
            asking.cancel()
            for stream in (up_writer, writer):
                stream.close()


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "app:v1", [noise(4_000_000, 3)])

    async def scenario() -> None:
        line = Line(registry, cut=700_000)
        async with line.open() as address, opened(tmp_path / "store") as store:
            image, told = await pulled(store, f"{address}/app:v1")
            assert (await store.prepare(image, "c")).lower[0].joinpath("file0").read_bytes() == noise(4_000_000, 3)
            counts = [one.current or 0 for one in told if one.status == "Downloading"]
            assert counts == sorted(counts)
        ranges = line.asked_for("Range: bytes=")
        assert len(ranges) >= 5
        assert line.connections < 12

    asyncio.run(scenario())


def test_a_line_that_carries_nothing_is_given_up(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "app:v1", [noise(4_000_000, 3)])

    async def scenario() -> None:
        line = Line(registry)

        def watch(progress: Progress) -> None:
            if progress.status == "Pulling fs layer":
                line.cut = 100  # from here on not even the headers of an answer get through

        async with line.open() as address, opened(tmp_path / "store") as store:
            with pytest.raises(Unavailable, match="blob sha256"):
                await store.pull(f"{address}/app:v1", None, watch)
            assert store.list() == []
        # The configuration once, then the layer; the HTTP library asks once more by itself when a line breaks so early.
        assert QUICK.attempts <= len(line.asked_for("/blobs/")) - 1 <= 2 * QUICK.attempts
        assert (blobs(tmp_path / "store"), layers(tmp_path / "store")) == (0, 0)

    asyncio.run(scenario())


def test_servers_that_ignore_or_mistake_ranges(tmp_path: Path) -> None:
    layer = Tar().file("f", noise(3_000_000, 4)).bytes()
    config = json.dumps(
        {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": described(config, f"{OCI}.config.v1+json"),
            "layers": [described(layer, f"{OCI}.layer.v1.tar")],
        }
    ).encode()
    attempts: list[str] = []
    arrived = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(hashlib.sha256(layer).hexdigest()):
            attempts.append(request.headers.get("Range", ""))
            response = web.StreamResponse(status=206 if len(attempts) == 2 else 200)
            if len(attempts) == 2:
                response.headers["Content-Range"] = f"bytes 5-{len(layer) - 1}/{len(layer)}"
            response.content_length = len(layer)
            await response.prepare(request)
            if len(attempts) < 4:
                await response.write(layer[:1_500_000])
                if len(attempts) != 2:
                    await arrived.wait()
                arrived.clear()
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(layer)
            return response
        if "/manifests/" in request.path:
            return web.Response(body=manifest, content_type=f"{OCI}.manifest.v1+json")
        return web.Response(body=config if "/blobs/" in request.path else b"{}")

    async def scenario() -> None:
        async with served(serve) as address, opened(tmp_path / "store") as store:
            image = await store.pull(f"{address}/app", None, lambda one: arrived.set() if one.current else None)
            assert (await store.prepare(image, "c")).lower[0].joinpath("f").read_bytes() == noise(3_000_000, 4)
        assert attempts[0] == "" and all(one.startswith("bytes=") for one in attempts[1:]) and len(attempts) == 4

    asyncio.run(scenario())


def test_pulls_at_the_same_time_share_what_they_fetch(tmp_path: Path, registry: str) -> None:
    base = noise(2_000_000, 5)
    push(tmp_path, registry, "one:v1", [base, b"1"])
    push(tmp_path, registry, "two:v1", [base, b"2"])

    async def scenario() -> None:
        line = Line(registry)
        async with line.open() as address, opened(tmp_path / "store") as store:
            names = [f"{address}/one:v1", f"{address}/two:v1"] * 4
            results = await asyncio.gather(*(pulled(store, name) for name in names))
            assert len({image.id for image, _ in results}) == 2
            for _, told in results:
                assert [one.status for one in told].count("Pull complete") <= 2
                assert told[-1].status.startswith("Status: ")
            fetched = line.asked_for("/blobs/sha256:")
            digests = [request.partition("/blobs/")[2][:71] for request in fetched]
            assert len(digests) == len(set(digests)) == 5  # two configurations, three layers
            assert layers(tmp_path / "store") == 3

    asyncio.run(scenario())


def test_one_of_two_pulls_is_cancelled(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "app:v1", [noise(6_000_000, 6)])

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            downloading = asyncio.Event()

            def watch(progress: Progress) -> None:
                if progress.status == "Downloading":
                    downloading.set()

            first = asyncio.create_task(store.pull(f"{registry}/app:v1", None, watch))
            await downloading.wait()
            second = asyncio.create_task(pulled(store, f"{registry}/app:v1"))
            for _ in range(20):
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            image, _ = await second
            assert (await store.prepare(image, "c")).lower
        assert list((tmp_path / "store/ingest").iterdir()) == []

    asyncio.run(scenario())


def test_the_only_pull_is_cancelled(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "app:v1", [noise(6_000_000, 6)])

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            downloading = asyncio.Event()
            pull = asyncio.create_task(
                store.pull(f"{registry}/app:v1", None, lambda one: downloading.set() if one.current else None)
            )
            await downloading.wait()
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
        assert list((tmp_path / "store/ingest").iterdir()) == []
        assert blobs(tmp_path / "store") == 0

    asyncio.run(scenario())


def test_content_that_is_not_what_it_is_called(tmp_path: Path, start_registry: RegistryStarter) -> None:
    registry = start_registry()
    push(tmp_path, registry, "app:v1", [noise(500_000, 7)])
    raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{registry}/app:v1"))
    digest = raw["layers"][0]["digest"].partition(":")[2]
    (stored,) = (tmp_path / "registry0/data").glob(f"**/blobs/sha256/*/{digest}/data")
    good = stored.read_bytes()

    async def scenario(data: bytes, word: str) -> None:
        stored.write_bytes(data)
        async with opened(tmp_path / "store") as store:
            with pytest.raises((InvalidArgument, Unavailable), match=word):
                await pulled(store, f"{registry}/app:v1")
            assert store.list() == []
        assert blobs(tmp_path / "store") == 0

    asyncio.run(scenario(good[:-1] + bytes([good[-1] ^ 1]), "does not match its digest"))
    asyncio.run(scenario(good + b"more", "longer than"))
    asyncio.run(scenario(good[:1000], "blob sha256"))


def unusual() -> dict[str, tuple[str, dict[str, Any], str]]:
    config = {"mediaType": f"{OCI}.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}

    def manifest(**layer: Any) -> dict[str, Any]:
        return {"schemaVersion": 2, "config": config, "layers": [{"digest": "sha256:" + "1" * 64, "size": 2} | layer]}

    return {
        "foreign layer": (
            f"{OCI}.manifest.v1+json",
            manifest(mediaType=f"{OCI}.layer.nondistributable.v1.tar+gzip"),
            "from elsewhere",
        ),
        "unknown layer": (f"{OCI}.manifest.v1+json", manifest(mediaType="application/x-squashfs"), "not a tar layer"),
        "encrypted layer": (
            f"{OCI}.manifest.v1+json",
            manifest(mediaType=f"{OCI}.layer.v1.tar+gzip+encrypted"),
            "not a tar",
        ),
        "artifact": (
            f"{OCI}.manifest.v1+json",
            {"schemaVersion": 2, "config": config | {"mediaType": "application/vnd.example"}, "layers": []},
            "not a container image",
        ),
        "schema 1": (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            {"schemaVersion": 1, "fsLayers": []}, "schema 1",
        ),
        "negative size": (
            f"{OCI}.manifest.v1+json",
            manifest(mediaType=f"{OCI}.layer.v1.tar", size=-1),
            "not a length",
        ),
        "no digest": (f"{OCI}.manifest.v1+json", manifest(mediaType=f"{OCI}.layer.v1.tar", digest="x"), "not a digest"),
        "not json": ("text/html", {}, "schemaVersion"),
    }  # fmt: skip


@pytest.mark.parametrize("name", unusual())
def test_what_is_not_an_image_is_refused_clearly(tmp_path: Path, name: str) -> None:
    media_type, document, word = unusual()[name]

    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=json.dumps(document).encode(), content_type=media_type)

    async def scenario() -> None:
        async with served(serve) as address, opened(tmp_path / "store") as store:
            with pytest.raises((NotSupported, InvalidArgument), match=word) as caught:
                await pulled(store, f"{address}/odd:v1")
            assert f"{address}/odd:v1" in str(caught.value)

    asyncio.run(scenario())


def test_what_is_not_there(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "app:v1", [b"1"])

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            for name in ("app:v2", "nothing", "app@sha256:" + "0" * 64):
                with pytest.raises(NotFound, match="is not in registry"):
                    await pulled(store, f"{registry}/{name}")
            with pytest.raises(Unavailable, match="cannot be reached"):
                await pulled(store, "127.0.0.1:1/app")
            with pytest.raises(InvalidArgument, match="lower case"):
                await pulled(store, f"{registry}/App")

    asyncio.run(scenario())


def test_a_mirror_stands_in_for_a_registry(tmp_path: Path, registry: str) -> None:
    push(tmp_path, registry, "library/app:v1", [b"1"])

    async def scenario() -> None:
        config = RegistryConfig(endpoints={"docker.io": f"http://{registry}"})
        async with opened(tmp_path / "store", config) as store:
            image, _ = await pulled(store, "app:v1")
            assert image.references == ("app:v1",) and image.digests == (f"app@{image.manifest}",)

    asyncio.run(scenario())


def test_tls(tmp_path: Path, start_registry: RegistryStarter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate nobody vouches for is refused, unless the registry is on loopback or listed."""
    self_signed(tmp_path)
    registry = start_registry(http=f"tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}")
    push(tmp_path, registry, "app:v1", [b"1"])
    named = on_this_host(monkeypatch, registry)

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            assert (await pulled(store, f"{registry}/app:v1"))[0].references
            with pytest.raises(Unavailable, match=r"certificate.*list it as an insecure registry"):
                await pulled(store, f"{named}/app:v1")
        async with opened(tmp_path / "store", RegistryConfig(insecure=(named,))) as store:
            assert (await pulled(store, f"{named}/app:v1"))[0].references

    asyncio.run(scenario())


def test_the_host_may_trust_an_authority_of_its_own(
    tmp_path: Path, start_registry: RegistryStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in the simplest way: without key identifiers, which Go does not ask for and Python does since 3.13."""
    self_signed(tmp_path, "registry.test")
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/cert.pem")
    registry = start_registry(http=f"tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}")
    push(tmp_path, registry, "app:v1", [b"1"])
    named = on_this_host(monkeypatch, registry)

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            assert (await pulled(store, f"{named}/app:v1"))[0].references

    asyncio.run(scenario())


def on_this_host(monkeypatch: pytest.MonkeyPatch, registry: str) -> str:
    """The registry by the name of registry.test, which is not known to be on loopback."""
    resolve = socket.getaddrinfo

    def resolve_here(host: Any, *rest: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host == "registry.test" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)
    return f"registry.test:{registry.rpartition(':')[2]}"


def test_insecure_registries() -> None:
    config = RegistryConfig(insecure=("plain.test", "other.test:5000", "10.1.0.0/16", "fd00::/8"))
    for domain in (
        "localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "plain.test", "plain.test:99",
        "other.test:5000", "10.1.2.3:5000", "[fd00::1]:5000",
    ):  # fmt: skip
        assert config.is_insecure(domain), domain
    for domain in (
        "docker.io",
        "other.test",
        "other.test:1",
        "10.2.0.1",
        "localhost.test",
        "8.8.8.8:5000",
        "[fe80::1]",
    ):
        assert not config.is_insecure(domain), domain


def test_challenges() -> None:
    header = 'Bearer realm="https://t.test/token",service="s,x",scope="repository:a/b:pull,push", Basic realm="r"'
    assert parse_challenges(header) == {
        "bearer": {"realm": "https://t.test/token", "service": "s,x", "scope": "repository:a/b:pull,push"},
        "basic": {"realm": "r"},
    }
    assert parse_challenges("") == parse_challenges("nonsense") == {}


def test_a_password_does_not_go_where_others_can_read_it(tmp_path: Path) -> None:
    """A registry on loopback that sends for tokens to a plain-HTTP host elsewhere."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="http://tokens.test/t",service="s"'})

    async def scenario() -> None:
        async with served(serve) as address, opened(tmp_path / "store") as store:
            with pytest.raises(InvalidArgument, match=r"http://tokens\.test/t"):
                await pulled(store, f"{address}/app", RegistryAuth("tester", "open sesame"))

    asyncio.run(scenario())


def test_registry_credentials_are_read_as_the_client_sends_them() -> None:
    auth = RegistryAuth.from_header("eyJ1c2VybmFtZSI6ImFubmEiLCJwYXNzd29yZCI6InMzY3JldCJ9")
    assert auth is not None and (auth.username, auth.password) == ("anna", "s3cret")
    assert RegistryAuth.from_header("") is None and RegistryAuth.from_header("e30") is None
    with pytest.raises(InvalidArgument):
        RegistryAuth.from_header("bm90IGpzb24")
