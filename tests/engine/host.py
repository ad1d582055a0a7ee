"""One daemon under test and the docker client that talks to it; everything it made is gone when it is closed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
DEADLINE_S = 10
START_S = 60  # on a busy machine the imports alone take their time


def until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; fails naming `what` when there is none in time."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)  # the pace of polling; the condition decides
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Host:
    """A daemon process and its socket."""

    def __init__(self, docker: str = "docker") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarmpy-test-"))
        self.prefix = f"t{os.getpid() % 100000:x}"
        self.docker_binary = docker
        self.log = self.root / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{self.root}/api.sock"

    def start(self) -> None:
        """The daemon answers."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        script = Path(__file__).parent / "daemon_process.py"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(self.root), self.prefix], env=environment, stderr=log, stdout=log
            )
        until("the daemon answers", self._answers, START_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.root / "api.sock"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def kill(self) -> None:
        """kill -9 to the daemon alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """An orderly end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(DEADLINE_S) == 0, self.log.read_text()

    def docker(
        self, *arguments: str, input: str | bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The docker client; with `check` it must succeed."""
        environment = {**os.environ, "DOCKER_HOST": self.address, "DOCKER_CONFIG": str(self.root / "client")}
        data = input.encode() if isinstance(input, str) else input
        command = [self.docker_binary, *arguments]
        done = subprocess.run(
            command, env=environment, input=data or b"", capture_output=True, timeout=DEADLINE_S * 2, check=False
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check:
            assert result.returncode == 0, f"{arguments}: {result.stderr}\n{self.log.read_text()[-4000:]}"
        return result

    def out(self, *arguments: str, input: str | bytes | None = None) -> str:
        """What the docker client prints, without the last newline."""
        return self.docker(*arguments, input=input).stdout.rstrip("\n")

    def inspect(self, name: str) -> dict[str, Any]:
        """`docker inspect` of one object."""
        found: dict[str, Any] = json.loads(self.out("inspect", name))[0]
        return found

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One HTTP request without a client library: status and JSON (or text) of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(str(self.root / "api.sock"))
            client.sendall(head.encode() + data)
            answer = b""
            while piece := client.recv(1 << 16):
                answer += piece
        head_text, _, content = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head_text.lower():
            content = _unchunked(content)
        status = int(head_text.split(b" ", 2)[1])
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode(errors="replace")

    def import_busybox(self) -> None:
        """The image `busybox`, made of the busybox of this machine."""
        with tempfile.TemporaryDirectory() as directory:
            top = Path(directory)
            top.chmod(0o755)
            for name in ("bin", "etc", "tmp", "root", "var/www", "proc", "sys", "dev"):
                (top / name).mkdir(parents=True)
            found = shutil.which("busybox")
            assert found is not None, "busybox-static is needed"
            shutil.copy2(found, top / "bin/busybox")
            names = subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split()
            for name in names:
                if name != "busybox":
                    (top / "bin" / name).symlink_to("busybox")
            (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n")
            (top / "etc/group").write_text("root:x:0:\nweb:x:34:\naudio:x:63:web\n")
            (top / "var/www/index.html").write_text("from the image\n")
            tar = subprocess.run(["tar", "-C", directory, "-c", "."], capture_output=True, check=True).stdout
        self.docker("import", "-c", 'CMD ["sh"]', "-", "busybox", input=tar)

    def close(self) -> None:
        """No container, process, link, mount or cgroup of the daemon is left."""
        if self._process is not None:
            if self._process.poll() is not None:
                self.start()
            ids = self.out("ps", "-aq").split()
            if ids:
                self.docker("rm", "-f", *ids)
            self.terminate()
        shutil.rmtree(self.root)


def _unchunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        out += rest[:length]
        data = rest[length + 2 :]
    return out
