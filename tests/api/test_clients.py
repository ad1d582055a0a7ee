"""Other clients than the newest docker: the old one, and docker-py."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterator

import aiohttp
import docker
import pytest

from tests.engine.conftest import docker_clients
from tests.engine.host import Host

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.mark.parametrize("client", docker_clients())
def test_a_life_with_every_docker_client(host: Host, client: str) -> None:
    host.docker_binary = client
    try:
        assert host.out("run", "--rm", "-i", "busybox", "cat", input="text") == "text"
        host.docker("run", "-d", "--name", "one", "-v", "vol:/data", "busybox", "sh", "-c", "echo hi; exec sleep 99")
        assert host.out("exec", "-i", "one", "wc", "-c", input="12345") == "5"
        assert host.out("logs", "one") == "hi"
        assert "one" in host.out("ps")
        assert "sleep 99" in host.out("top", "one")
        assert "busybox" in host.out("images")
        host.docker("stats", "--no-stream", "one")
        host.docker("inspect", "one")
        host.docker("system", "df")
        host.docker("stop", "-t", "0", "one")
        assert host.out("wait", "one") == "137"
        host.docker("rm", "-v", "one")
        host.docker("volume", "rm", "vol")
        host.docker("tag", "busybox", "other:1")
        assert "Untagged: other:1" in host.out("rmi", "other:1")
        host.docker("info")
        host.docker("network", "ls")
    finally:
        host.docker_binary = "docker"


@pytest.fixture
def client(host: Host) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=host.address, timeout=30)
    yield made
    made.close()


def test_docker_py(client: docker.DockerClient) -> None:
    assert client.ping()
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    container = client.containers.run("busybox", ["sleep", "99"], detach=True, name="py", ports={"80/tcp": None})
    try:
        assert container.status in ("created", "running")
        code, output = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True)
        assert (code, output) == (2, (b"out\n", b"err\n"))
        assert container.exec_run("cat /etc/hostname").output == container.short_id.encode() + b"\n"
        assert container.stats(stream=False)["pids_stats"]["current"] >= 1
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            info = tarfile.TarInfo("file")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"text"))
        assert container.put_archive("/tmp", data.getvalue())
        pieces, stat = container.get_archive("/tmp/file")
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            member = tar.extractfile("file")
            assert member is not None and member.read() == b"text"
        assert (stat["name"], stat["size"]) == ("file", 4)
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
        container.rename("py2")
        assert client.containers.get("py2").id == container.id
        assert [c.id for c in client.containers.list(filters={"name": "py2"})] == [container.id]
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
    finally:
        container.remove(force=True)
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("py2")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("no-such-image")


def test_attach_over_a_websocket(host: Host) -> None:
    async def scenario() -> bytes:
        connector = aiohttp.UnixConnector(str(host.root / "api.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.ws_connect("http://x/containers/ws/attach/ws?stream=1&stdin=1&stdout=1") as socket:
                await socket.send_bytes(b"hello\n")
                return await socket.receive_bytes(timeout=10)

    host.docker("run", "-d", "-i", "--name", "ws", "busybox", "cat")
    assert asyncio.run(scenario()) == b"hello\n"
    host.docker("rm", "-f", "ws")


def test_docker_py_follows_events(client: docker.DockerClient) -> None:
    events = client.events(decode=True, filters={"type": "container", "event": ["create", "destroy"]})
    container = client.containers.create("busybox", ["true"])
    assert next(events)["Action"] == "create"
    container.remove()
    assert next(events)["Actor"]["ID"] == container.id
    events.close()
