"""Images in and out through the API: a registry, archives, names."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.host import Host, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.fixture(scope="module")
def registry(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that holds `box:1`, as 127.0.0.1:port."""
    root = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1, "log": {"level": "error"}, "http": {"addr": address},
        "storage": {"filesystem": {"rootdirectory": str(root / "store")}},
    }  # fmt: skip
    (root / "config.yml").write_text(json.dumps(config))
    program = shutil.which("docker-registry")
    assert program is not None, "the package docker-registry is needed"
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(root / "config.yml")], stdout=log, stderr=log)
    try:
        until("the registry answers", lambda: _answers(address))
        host.docker("save", "-o", str(root / "box.tar"), "busybox")
        copy = ["skopeo", "copy", "--dest-tls-verify=false", f"docker-archive:{root}/box.tar", f"docker://{address}/box:1"]
        subprocess.run(copy, check=True, capture_output=True)
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    name, port = address.split(":")
    with socket.socket() as client:
        return client.connect_ex((name, int(port))) == 0


def test_pull_tells_its_progress(host: Host, registry: str) -> None:
    status, answer = host.request("POST", f"/images/create?fromImage={registry}/box&tag=1")
    assert status == 200
    lines = [json.loads(line) for line in answer.splitlines()]
    assert lines[0]["status"].startswith("Pulling from box")
    assert lines[-1]["status"] == f"Status: Downloaded newer image for {registry}/box:1"
    assert not any("error" in line for line in lines)
    assert host.out("run", "--rm", f"{registry}/box:1", "echo", "pulled") == "pulled"
    assert "Image is up to date" in host.out("pull", f"{registry}/box:1")
    host.docker("rmi", f"{registry}/box:1")


def test_run_pulls_what_is_missing(host: Host, registry: str) -> None:
    done = host.docker("run", "--rm", f"{registry}/box:1", "echo", "there")
    assert done.stdout == "there\n"
    assert "Downloaded newer image" in done.stderr
    host.docker("rmi", f"{registry}/box:1")


def test_a_pull_that_fails_is_an_error(host: Host, registry: str) -> None:
    missing = host.docker("pull", f"{registry}/nothing:1", check=False)
    assert missing.returncode == 1
    assert "nothing" in missing.stderr
    assert host.docker("pull", "127.0.0.1:1/x", check=False).returncode == 1


def test_a_look_at_a_registry(host: Host, registry: str) -> None:
    status, found = host.request("GET", f"/distribution/{registry}/box:1/json")
    assert status == 200, found
    assert found["Descriptor"]["digest"].startswith("sha256:")
    assert found["Descriptor"]["size"] > 0
    assert host.request("GET", f"/distribution/{registry}/none:1/json")[0] == 404


def test_archives_go_out_and_in(host: Host, tmp_path: Path) -> None:
    before = host.inspect("busybox")["Id"]
    host.docker("tag", "busybox", "saved:1")
    host.docker("save", "-o", str(tmp_path / "saved.tar"), "saved:1")
    host.docker("rmi", "saved:1")
    assert "Loaded image: saved:1" in host.out("load", "-i", str(tmp_path / "saved.tar"))
    assert host.inspect("saved:1")["Id"] == before
    assert host.docker("load", check=False, input=b"nonsense").returncode == 1
    assert host.docker("save", "no-such-image", check=False).returncode == 1
    host.docker("rmi", "saved:1")


def test_an_image_in_use_stays(host: Host) -> None:
    host.docker("tag", "busybox", "used:1")
    host.docker("create", "--name", "user", "used:1", "true")
    host.docker("rmi", "used:1")
    refused = host.docker("rmi", host.inspect("busybox")["Id"], check=False)
    assert "conflict" in refused.stderr.lower()
    host.docker("start", "-a", "user")
    host.docker("rm", "user")


def test_names_and_lists(host: Host) -> None:
    host.docker("tag", "busybox", "a/b:1")
    assert host.out("images", "--format", "{{.Repository}}:{{.Tag}}", "a/b") == "a/b:1"
    assert host.out("images", "-q", "--filter", "reference=a/*") != ""
    assert host.out("images", "-q", "--filter", "dangling=true") == ""
    assert "busybox" in host.out("history", "--no-trunc", "a/b:1") or host.out("history", "a/b:1")
    host.docker("rmi", "a/b:1")
