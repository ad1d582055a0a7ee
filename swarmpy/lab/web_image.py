"""A web server small enough to make anywhere: busybox's httpd, answering with the name of the replica that served.

Source  busybox httpd: a directory without index.html is served by /cgi-bin/index.cgi.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from swarmpy.errors import NotFound

__all__ = ["CHANGES", "web_root"]

CHANGES = ('CMD ["httpd", "-f", "-vv", "-p", "80", "-h", "/www"]', "EXPOSE 80", "STOPSIGNAL SIGKILL")

INDEX = """#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "{greeting} $(hostname)"
"""
APPLETS = (
    "cat", "echo", "env", "hostname", "httpd", "id", "ip", "kill", "ls", "nc", "ps", "sh", "sleep", "top", "wget",
)


def web_root(greeting: str = "replica") -> bytes:
    """A tar of the root file system; every answer is `greeting` and the host name.

    Raises NotFound when busybox is not installed.
    """
    found = shutil.which("busybox")
    if found is None:
        raise NotFound("busybox: not on this machine; install the package busybox-static")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "www", "www/cgi-bin"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        add(tar, "bin/busybox", Path(found).read_bytes(), 0o755)
        add(tar, "www/cgi-bin/index.cgi", INDEX.format(greeting=greeting).encode(), 0o755)
        add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return archive.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
