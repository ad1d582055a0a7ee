"""Files into and out of a container: which archive is asked for or sent, and where its entries come to lie.

An archive has one entry at its top, named as the source. Where the target is a directory it is put in there; else the
entry takes the target's name. `SOURCE/.` is what is in a directory, without itself.
Source  docker cp; Docker Engine API, /containers/{id}/archive.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from swarmpy.cli.failures import ApiError

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["copy_in", "copy_out", "place"]

NOT_FOUND = 404
GO_DIRECTORY, GO_SYMLINK = 1 << 31, 1 << 27  # the bits of Go's os.FileMode that the API describes a path with
STAT_HEADER = "x-docker-container-path-stat"


Described = dict[str, Any]


class Place(NamedTuple):
    """`CONTAINER:PATH`, or a path here, whose container is empty; `-` is a stream."""

    container: str
    path: str


def place(text: str) -> Place:
    """A path that begins with `/` or `.` is here, whatever it has in it; one in a container counts from its root."""
    container, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return Place("", text)
    if not container or not path:
        raise ValueError(f"{text!r} is not CONTAINER:PATH")
    return Place(container, path if path.startswith("/") else f"/{path}")


def copy_out(daemon: Client, source: Place, target: str, *, follow_link: bool) -> None:
    """From a container to here, where the files belong to this process."""
    whole = source.path.endswith("/.")
    path = source.path.removesuffix(".") if whole else source.path
    described = path_stat(daemon, source.container, path)
    if described is None:
        raise ValueError(f"Could not find the file {path} in container {source.container}")
    top = PurePosixPath(path).name
    if follow_link and described["mode"] & GO_SYMLINK:
        path = linked(path, described)
        described = path_stat(daemon, source.container, path) or described
    with daemon.stream("GET", f"/containers/{source.container}/archive", {"path": path}) as response:
        if target == "-":
            shutil.copyfileobj(response, sys.stdout.buffer)
            return
        folder, name = landing(target, top, whole=whole, directory=bool(described["mode"] & GO_DIRECTORY))
        with tarfile.open(fileobj=response, mode="r|") as packed:
            # 3.11.4 and later: nothing outside of `folder`; earlier ones do not look at it
            packed.extraction_filter = getattr(tarfile, "tar_filter", None)
            packed.extractall(folder, members=renamed(packed, name))


def landing(target: str, top: str, *, whole: bool, directory: bool) -> tuple[str, str]:
    """(directory that is extracted to, name that the entry at the top takes; "." is none)."""
    if Path(target).is_dir():
        return (target, "." if whole else top)
    if Path(target).exists() and directory:
        raise ValueError(f"cannot copy a directory onto the file {target!r}")
    if target.endswith("/") and not directory:
        raise ValueError(f"{target!r} is no directory")
    parent, name = os.path.split(target.rstrip("/"))
    if not Path(parent or ".").is_dir():
        raise ValueError(f"{parent!r}: no such directory")
    return parent or ".", name


def renamed(archive: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    """The entries, that at the top with another name, and all of them this process's."""
    for entry in archive:
        entry.name = str(PurePosixPath(name, *PurePosixPath(entry.name).parts[1:]))
        if entry.islnk():  # a link names its target as the archive has it
            entry.linkname = str(PurePosixPath(name, *PurePosixPath(entry.linkname).parts[1:]))
        entry.uid, entry.gid = os.geteuid(), os.getegid()
        entry.uname = entry.gname = ""
        yield entry


def copy_in(daemon: Client, source: str, target: Place, *, follow_link: bool, archive: bool) -> None:
    """From here into a container. `archive`: with the owners of the files."""
    query = {"noOverwriteDirNonDir": "true", "copyUIDGID": "true" if archive else None}
    address = f"/containers/{target.container}/archive"
    described = path_stat(daemon, target.container, target.path)
    if described is not None and described["mode"] & GO_SYMLINK:
        target = Place(target.container, linked(target.path, described))
        described = path_stat(daemon, target.container, target.path)
    if source == "-":
        if described is None or not described["mode"] & GO_DIRECTORY:
            raise ValueError(f"{target.container}:{target.path} must be a directory, to extract a stream to")
        with daemon.stream("PUT", address, query | {"path": target.path}, sys.stdin.buffer):
            return
    path = Path(source)
    if not path.exists() and not path.is_symlink():
        raise ValueError(f"{source}: no such file or directory")
    folder, name = landing_there(target, described, source, directory=path.is_dir())
    with (
        packed(path, name, follow_link=follow_link) as file,
        daemon.stream("PUT", address, query | {"path": folder}, file),
    ):
        return


def landing_there(target: Place, described: Described | None, source: str, *, directory: bool) -> tuple[str, str]:
    """As `landing`, in the container. `described` is what is at the target, if anything is."""
    top = "." if source.endswith("/.") else Path(os.path.normpath(source)).absolute().name
    if described is not None and described["mode"] & GO_DIRECTORY:
        return target.path, top
    if described is not None and directory:
        raise ValueError(f"cannot copy a directory onto the file {target.path!r}")
    if described is None and target.path.endswith("/") and not directory:
        raise ValueError(f"{target.path!r}: no such directory in container {target.container}")
    clean = PurePosixPath(os.path.normpath(target.path))
    return str(clean.parent), clean.name


@contextmanager
def packed(path: Path, name: str, *, follow_link: bool) -> Iterator[IO[bytes]]:
    """The file or directory as an archive, its top named `name`."""
    if follow_link or (path.is_dir() and name == "."):
        path = path.resolve()
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(path, name, filter=without_sockets)
        file.seek(0)
        yield file


def without_sockets(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if stat.S_ISSOCK(entry.mode) else entry


def linked(path: str, described: Described) -> str:
    """Where the link at a path leads to."""
    return str(PurePosixPath(path).parent / described["linkTarget"])


def path_stat(daemon: Client, container: str, path: str) -> Described | None:
    """What the container has at the path, and None if nothing."""
    try:
        header = daemon.head(f"/containers/{container}/archive", {"path": path}).get(STAT_HEADER, "")
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        daemon.get(f"/containers/{container}/json")  # which is not there itself, perhaps
        return None
    return dict(json.loads(base64.b64decode(header)))
