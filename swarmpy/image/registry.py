"""The registry client: manifests and blobs over the distribution protocol.

Owns    which URL a registry has, how a request is authorised, and how a broken download goes on where it stopped.
        It hands out bytes and descriptors; `pull` decides what to ask for.
Source  OCI distribution-spec "Pull"; Docker Registry token authentication; RFC 9110 sections 11 and 14 (challenges,
        ranges).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from swarmpy.errors import Forbidden, InvalidArgument, NotFound, Unavailable
from swarmpy.image.content import BlobWriter
from swarmpy.image.digest import Digest, digest_of, hasher, parse_digest, split_digest
from swarmpy.image.manifest import ACCEPTED, MANIFEST_LIMIT, Descriptor
from swarmpy.image.reference import DEFAULT_DOMAIN, Reference

__all__ = ["Registry", "RegistryAuth", "RegistryConfig", "Repository"]

BUFFER_BYTES = 1 << 20
"""Collected from the network before a thread is asked to hash and write it."""
ERROR_BODY_LIMIT = 64 << 10
_CHALLENGE = re.compile(r'([a-zA-Z]+)\s+((?:[a-zA-Z_]+=(?:"[^"]*"|[^\s,"]+)(?:\s*,\s*)?)*)')
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,"]+))')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Who is asking, as the header `X-Registry-Auth` of the Engine API says. Never shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, given in place of a password."""
    registry_token: str = field(default="", repr=False)
    """A bearer token that is used as it is."""

    @classmethod
    def from_header(cls, text: str) -> RegistryAuth | None:
        """X-Registry-Auth: base64url of a JSON AuthConfig. None when it holds no credentials.

        Raises InvalidArgument, without showing what was sent.
        """
        if not text:
            return None
        try:
            data = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise InvalidArgument("X-Registry-Auth is not base64url of a JSON object with credentials")
        names = ("username", "password", "identitytoken", "registrytoken")
        username, password, identity, token = (str(data.get(name) or "") for name in names)
        if not (username or identity or token):
            return None
        return cls(username, password, identity_token=identity, registry_token=token)

    @property
    def basic(self) -> str:
        """The Authorization header with name and password, or nothing. Source  RFC 7617, with its charset UTF-8."""
        if not (self.username or self.password):
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """How this host reaches registries."""

    insecure: tuple[str, ...] = ()
    """Registries that may speak plain HTTP or have a certificate nobody vouches for: `host`, `host:port`, or a network
    such as `10.0.0.0/8`. Loopback addresses and `localhost` always may."""
    endpoints: Mapping[str, str] = field(
        default_factory=lambda: {DEFAULT_DOMAIN: f"https://registry-1.{DEFAULT_DOMAIN}"}
    )
    """Where a registry's API really is, by the domain in references, such as a mirror: `https://mirror.example:5000`.
    The default registry answers under another name than its images carry."""
    parallel_downloads: int = 3
    attempts: int = 6
    """Of one blob, in a row without a byte of progress."""
    pause: Callable[[float], Awaitable[None]] = _pause
    """Waits that many seconds between attempts."""

    def is_insecure(self, domain: str) -> bool:
        """Whether `domain` (host or host:port) may do without verified TLS."""
        host = domain.rpartition(":")[0] if re.search(r":\d+$", domain) else domain
        host = host.strip("[]")
        if host == "localhost" or domain in self.insecure or host in self.insecure:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or any(address in network for network in _networks(self.insecure))


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: URL
    tls: ssl.SSLContext | bool
    """False: TLS without verification, or none."""


class Registry:
    """All registries, over one connection pool. Used on one event loop."""

    def __init__(self, config: RegistryConfig) -> None:
        self.config = config
        self._session: aiohttp.ClientSession | None = None
        self._endpoints: dict[str, _Endpoint] = {}

    async def close(self) -> None:
        """No connection is left open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def repository(self, reference: Reference, auth: RegistryAuth | None) -> Repository:
        """The repository that `reference` lies in, as seen by `auth`."""
        return Repository(self, reference, auth or RegistryAuth())

    def session(self) -> aiohttp.ClientSession:
        """The connection pool, made when first needed."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            # A layer's gzip is content: nothing on the way may add or undo an encoding.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=_verified()),
                timeout=timeout,
                read_bufsize=BUFFER_BYTES,
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "swarmpy"},
            )
        return self._session

    async def endpoint(self, domain: str) -> _Endpoint:
        """Where `domain` answers: over TLS when it can. Raises Unavailable."""
        if (known := self._endpoints.get(domain)) is not None:
            return known
        stated = self.config.endpoints.get(domain)
        insecure = self.config.is_insecure(domain)
        urls = [URL(stated)] if stated else [URL(f"https://{domain}"), *([URL(f"http://{domain}")] if insecure else [])]
        failure: Exception | None = None
        for url in urls:
            endpoint = _Endpoint(url, not (insecure or self.config.is_insecure(url.authority)))
            try:
                async with self.session().get(url / "v2/", ssl=endpoint.tls, allow_redirects=False):
                    pass
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = error
                continue
            self._endpoints[domain] = endpoint
            return endpoint
        hint = "" if insecure else "; if it has no valid certificate, list it as an insecure registry"
        raise Unavailable(f"registry {domain} cannot be reached: {_reason(failure)}{hint}") from failure


def _verified() -> ssl.SSLContext:
    """TLS as Docker verifies it: by what the host trusts.

    Key identifiers (RFC 5280, 4.2.1.1), which Python asks for since 3.13, are not needed: authorities that people make
    themselves often have none.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Repository:
    """One repository of a registry, with the tokens that its requests need."""

    def __init__(self, registry: Registry, reference: Reference, auth: RegistryAuth) -> None:
        self._registry = registry
        self._reference = reference
        self._auth = auth
        self._authorization = f"Bearer {auth.registry_token}" if auth.registry_token else ""

    async def manifest(self, selector: str) -> tuple[bytes, str, Digest]:
        """Bytes, media type and digest of the manifest or index called `selector` (a tag or digest).

        The digest is computed here; when one was asked for or the registry states one, it is the same. Raises NotFound,
        Forbidden, Unavailable, InvalidArgument.
        """
        what = f"manifest of {self._reference.familiar_name}, {selector}"
        headers = {"Accept": ", ".join(ACCEPTED)}
        try:
            async with self._get(f"manifests/{selector}", headers, what) as response:
                data = await _read_limited(response, MANIFEST_LIMIT, what)
                stated = response.headers.get("Docker-Content-Digest")
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{what}: registry {self._reference.domain} broke off: {_reason(error)}") from error
        expected = selector if ":" in selector else stated
        digest = digest_of(data)
        if expected:
            digest = parse_digest(expected, f"{what}: digest")
            running = hasher(split_digest(digest)[0])
            running.update(data)
            if running.hexdigest() != split_digest(digest)[1]:
                raise InvalidArgument(f"{what} does not match its digest {digest}")
        return data, media_type, digest

    async def download(self, blob: Descriptor, writer: BlobWriter, on_progress: Callable[[int], None]) -> None:
        """Write the blob's `size` bytes to `writer`; a broken connection is taken up again at the byte it broke at.

        The digest is not checked here: `BlobWriter.commit` does. Raises NotFound, Forbidden, Unavailable,
        InvalidArgument when more bytes come than the descriptor says.
        """
        config = self._registry.config
        failures = reached = 0
        while True:
            try:
                await self._stream(blob, writer, on_progress)
                if writer.size == blob.size:
                    return
                raise aiohttp.ClientPayloadError(f"only {writer.size} of {blob.size} bytes came")
            except (aiohttp.ClientError, TimeoutError, Unavailable) as error:
                failures = 1 if writer.size > reached else failures + 1
                reached = max(reached, writer.size)
                if failures >= config.attempts:
                    what = f"blob {blob.digest} of {self._reference.familiar_name}"
                    raise Unavailable(f"{what}: {_reason(error)}") from error
            await config.pause(min(0.25 * 2**failures, 10))

    async def _stream(self, blob: Descriptor, writer: BlobWriter, on_progress: Callable[[int], None]) -> None:
        """One request's worth of the blob."""
        headers = {"Range": f"bytes={writer.size}-"} if writer.size else {}
        what = f"blob {blob.digest} of {self._reference.familiar_name}"
        async with self._get(f"blobs/{blob.digest}", headers, what) as response:
            if writer.size and not _continues(response, writer.size):
                await asyncio.to_thread(writer.restart)
            buffer = bytearray()
            try:
                async for data in response.content.iter_any():
                    buffer += data
                    if writer.size + len(buffer) > blob.size:
                        raise InvalidArgument(f"{what} is longer than the {blob.size} bytes its manifest says")
                    if len(buffer) >= BUFFER_BYTES:
                        await asyncio.to_thread(writer.write, bytes(buffer))
                        buffer.clear()
                        on_progress(writer.size)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.to_thread(writer.write, bytes(buffer))  # what came is good, and need not come again
                raise
            await asyncio.to_thread(writer.write, bytes(buffer))
            on_progress(writer.size)

    @asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str], what: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response. On 401 the challenge is answered once."""
        endpoint = await self._registry.endpoint(self._reference.domain)
        url = endpoint.url / "v2" / self._reference.path / path
        for answered in (False, True):
            sent = headers | ({"Authorization": self._authorization} if self._authorization else {})
            async with self._registry.session().get(url, headers=sent, ssl=endpoint.tls) as response:
                if response.status == 401 and not answered:
                    challenges = response.headers.getall("WWW-Authenticate", [])
                    await self._authorize(endpoint, ", ".join(challenges))
                    continue
                if response.status not in (200, 206):
                    raise await self._refusal(response, what)
                yield response
            return

    async def _authorize(self, endpoint: _Endpoint, header: str) -> None:
        challenges = parse_challenges(header)
        basic = self._auth.basic
        if "bearer" in challenges:
            self._authorization = f"Bearer {await self._token(endpoint, challenges['bearer'])}"
        elif "basic" in challenges and basic:
            self._authorization = basic
        else:
            name = self._reference.familiar_name
            raise Forbidden(f"pull access denied for {name}: registry {self._reference.domain} wants a login")

    async def _token(self, endpoint: _Endpoint, challenge: Mapping[str, str]) -> str:
        domain = self._reference.domain
        try:
            realm = URL(challenge["realm"])
            trusted = realm.scheme == "https" or self._registry.config.is_insecure(realm.authority)
            if realm.host is None or not trusted:
                raise InvalidArgument(f"registry {domain} sends for tokens to {realm}, where a password is readable")
        except (KeyError, ValueError) as error:
            raise InvalidArgument(f"registry {domain} asks for a token and does not say where to get it") from error
        scope = challenge.get("scope") or f"repository:{self._reference.path}:pull"
        query = {"service": challenge.get("service", ""), "scope": scope, "client_id": "swarmpy"}
        tls = endpoint.tls and not self._registry.config.is_insecure(realm.authority)
        session = self._registry.session()
        try:
            if self._auth.identity_token:
                form = query | {"grant_type": "refresh_token", "refresh_token": self._auth.identity_token}
                request = session.post(realm, data=form, ssl=tls, allow_redirects=False)
            else:
                headers = {"Authorization": self._auth.basic} if self._auth.basic else {}
                request = session.get(realm.update_query(query), headers=headers, ssl=tls, allow_redirects=False)
            async with request as response:
                if response.status != 200:
                    raise await self._refusal(response, f"token for {self._reference.familiar_name}")
                data = await _read_limited(response, MANIFEST_LIMIT, f"token from {realm.host}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"token server {realm.host} of registry {domain}: {_reason(error)}") from error
        try:
            document = json.loads(data)
            token = document.get("token") or document.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isprintable():
            raise InvalidArgument(f"token server {realm.host} of registry {domain} answered without a token")
        return token

    async def _refusal(self, response: aiohttp.ClientResponse, what: str) -> Exception:
        """The error that a status other than success stands for, with the registry's own words."""
        said = _registry_words(await response.content.read(ERROR_BODY_LIMIT))
        domain = self._reference.domain
        if response.status in (401, 403):
            reason = said or "the registry wants a login, or another one"
            return Forbidden(f"pull access denied for {self._reference.familiar_name}: {reason}")
        if response.status == 404:
            return NotFound(f"{what} is not in registry {domain}{f' ({said})' if said else ''}")
        return Unavailable(f"{what}: registry {domain} answered {response.status}{f' ({said})' if said else ''}")


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """The challenges of a `WWW-Authenticate` header: parameters by lower-case scheme. Source  RFC 9110, 11.6.1."""
    return {
        match[1].lower(): {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(match[2])}
        for match in _CHALLENGE.finditer(header)
    }


def _continues(response: aiohttp.ClientResponse, start: int) -> bool:
    """Whether the response's first byte is byte `start` of the blob; a server may ignore the range and send it all."""
    if response.status != 206:
        return False
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise aiohttp.ClientPayloadError(f"asked for bytes from {start}, got another range")
    return True


async def _read_limited(response: aiohttp.ClientResponse, limit_bytes: int, what: str) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > limit_bytes:
            raise InvalidArgument(f"{what} has more than {limit_bytes} bytes")
    return bytes(data)


def _registry_words(body: bytes) -> str:
    """The messages of an error body. Source  distribution-spec "Error Codes"."""
    try:
        errors: Any = json.loads(body)["errors"]
        words = "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return "".join(char for char in words[:200] if char.isprintable())


def _networks(entries: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(entry, strict=False) for entry in entries if "/" in entry]


def _reason(error: Exception | None) -> str:
    return str(error) or type(error).__name__
