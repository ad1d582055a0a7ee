"""Files going in and out of a container as tar archives: `docker cp` and `docker export`.

Owns    reading and writing below a container's root without ever leaving it. Each path is opened with openat2(2)
        RESOLVE_IN_ROOT from a descriptor of the root, so neither a symbolic link in the container nor a name in an
        archive reaches the host, and a process in the container that swaps a directory for a link gains nothing.
Source  Docker Engine API, `/containers/{id}/archive` and `/export`; pax(1).
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

from swarmpy.engine.rootfs import open_in_root
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import InvalidArgument, NotFound

__all__ = ["describe", "extract", "pack"]

_GO_DIR, _GO_SYMLINK, _GO_DEVICE, _GO_PIPE, _GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_CHUNK = 1 << 18
_CAPABILITY, _PAX_XATTR = "security.capability", "SCHILY.xattr."


def describe(root: int, path: str) -> str:
    """The header X-Docker-Container-Path-Stat: base64 of JSON about what lies at `path`, or `NotFound`."""
    with _entry(root, path) as (descriptor, name):
        status = os.fstat(descriptor)
        link = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
    kinds = (
        (stat.S_ISDIR, _GO_DIR), (stat.S_ISLNK, _GO_SYMLINK), (stat.S_ISCHR, _GO_DEVICE), (stat.S_ISBLK, _GO_DEVICE),
        (stat.S_ISFIFO, _GO_PIPE), (stat.S_ISSOCK, _GO_SOCKET),
    )  # fmt: skip
    kind = next((bit for test, bit in kinds if test(status.st_mode)), 0)
    shown = {
        "name": name, "size": status.st_size, "mode": kind | stat.S_IMODE(status.st_mode) & 0o777,
        "mtime": format_rfc3339(status.st_mtime_ns), "linkTarget": link,
    }  # fmt: skip
    return base64.b64encode(json.dumps(shown).encode()).decode()


class _entry:  # noqa: N801 (used as a function)
    """`with _entry(root, path) as (descriptor, name)`: what lies at `path`, a final symbolic link not followed.

    Of a directory's contents ("/srv/.") the name is ".", so that they can be put into another directory.
    """

    def __init__(self, root: int, path: str) -> None:
        clean = _clean(path)
        self._name = "." if path.endswith("/.") else posixpath.basename(clean) or "/"
        follow = 0 if not path.endswith(("/", "/.")) else os.O_DIRECTORY
        try:
            self._descriptor = open_in_root(root, clean, os.O_PATH | (follow or os.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"Could not find the file {path} in the container") from error

    def __enter__(self) -> tuple[int, str]:
        return self._descriptor, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def pack(root: int, path: str, emit: Callable[[bytes], None], *, base: str | None = None) -> None:
    """Write a tar of what lies at `path`, named by its own name (or `base`), in pieces to `emit`. Blocks."""
    with _entry(root, path) as (descriptor, name):
        with tarfile.open(fileobj=_Sink(emit), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as archive:
            _Packer(archive).add(descriptor, (base if base is not None else name).strip("/"))


class _Sink(io.RawIOBase):
    def __init__(self, emit: Callable[[bytes], None]) -> None:
        self._emit = emit

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._emit(bytes(data))
        return len(data)


class _Packer:
    """Adds files by descriptor. Files that go away while they are read are left out."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._links: dict[tuple[int, int], str] = {}

    def add(self, descriptor: int, name: str) -> None:
        """What `descriptor` (O_PATH) refers to, and all below it."""
        status = os.fstat(descriptor)
        try:
            info = self._describe(descriptor, name, status)
        except FileNotFoundError:
            return  # a link of /proc/<pid> whose process has ended
        if info is None:
            return
        if info.isreg() and info.size:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._archive.addfile(info, _Exactly(file, info.size))
        else:
            self._archive.addfile(info)
        if info.isdir():
            self._add_children(descriptor, name)

    def _add_children(self, descriptor: int, name: str) -> None:
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
        try:
            for child in sorted(os.listdir(directory)):  # noqa: PTH208 (by descriptor)
                try:
                    opened = os.open(child, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                except FileNotFoundError:
                    continue
                try:
                    self.add(opened, f"{name}/{child}" if name else child)
                finally:
                    os.close(opened)
        finally:
            os.close(directory)

    def _describe(self, descriptor: int, name: str, status: os.stat_result) -> tarfile.TarInfo | None:
        info = tarfile.TarInfo(name or ".")
        info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        info.mtime = status.st_mtime_ns // 1_000_000_000
        mode = status.st_mode
        if stat.S_ISREG(mode):
            key = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and key in self._links:
                info.type, info.linkname = tarfile.LNKTYPE, self._links[key]
            else:
                self._links[key] = name
                info.size = status.st_size
                info.pax_headers = _capability(descriptor)
        elif stat.S_ISDIR(mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=descriptor)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif stat.S_ISFIFO(mode):
            info.type = tarfile.FIFOTYPE
        else:
            return None  # a socket means nothing in an archive
        return info


def _capability(descriptor: int) -> dict[str, str]:
    """The file's capabilities(7) as a pax record, as tar(1) and Docker write it: without them a ping(8) does not."""
    try:
        value = os.getxattr(f"/proc/self/fd/{descriptor}", _CAPABILITY)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return {}
    return {_PAX_XATTR + _CAPABILITY: value.decode("utf-8", "surrogateescape")}


class _Exactly(io.RawIOBase):
    """A file as long as its header said, whatever happens to it meanwhile: cut, or filled up with zeros."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        data += b"\0" * (wanted - len(data))
        self._left -= wanted
        return data


def extract(root: int, path: str, source: IO[bytes], *, keep_kinds: bool = False, keep_owners: bool = False) -> None:
    """Unpack a tar into the directory at `path`. Blocks.

    `keep_kinds`: refuse to put a file in place of a directory or the reverse (`noOverwriteDirNonDir`). `keep_owners`:
    owners as in the archive, else root (`copyUIDGID`). `InvalidArgument` for a broken archive, `NotFound` for no such
    directory.
    """
    try:
        target = open_in_root(root, _clean(path), os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise NotFound(f"Could not find the file {path} in the container") from error
    except NotADirectoryError as error:
        raise InvalidArgument("extraction point is not a directory") from error
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            unpacker = _Unpacker(root, _clean(path), archive, keep_kinds, keep_owners)
            for member in archive:
                unpacker.put(member)
            unpacker.finish()
    except tarfile.TarError as error:
        raise InvalidArgument(f"the archive cannot be read: {error}") from error
    finally:
        os.close(target)


class _Unpacker:
    """Makes the members of an archive below one directory of a root."""

    def __init__(self, root: int, base: str, archive: tarfile.TarFile, keep_kinds: bool, keep_owners: bool) -> None:
        self._root = root
        self._base = base
        self._archive = archive
        self._keep_kinds = keep_kinds
        self._keep_owners = keep_owners
        self._directories: list[tuple[str, tarfile.TarInfo]] = []

    def put(self, member: tarfile.TarInfo) -> None:
        path = self._path(member.name)
        parent, name = posixpath.split(path)
        if path == self._base:
            return
        directory = self._make_parents(parent)
        try:
            self._clear(directory, name, member)
            self._make(directory, name, member)
        finally:
            os.close(directory)
        if member.isdir():
            self._directories.append((path, member))

    def finish(self) -> None:
        """Times of directories, once nothing more is put into them."""
        for path, member in reversed(self._directories):
            descriptor = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.utime(descriptor, (member.mtime, member.mtime))
            finally:
                os.close(descriptor)

    def _path(self, name: str) -> str:
        return posixpath.join(self._base, _clean(name).lstrip("/")).rstrip("/") or "/"

    def _make_parents(self, path: str) -> int:
        """A descriptor of the directory `path`, made with all that is missing above it."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            return open_in_root(self._root, path, flags)
        except FileNotFoundError:
            above, name = posixpath.split(path)
            parent = self._make_parents(above)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                raise InvalidArgument(f"{path} is a link that leads nowhere; nothing can be put below it") from None
            finally:
                os.close(parent)
            return open_in_root(self._root, path, flags)

    def _clear(self, directory: int, name: str, member: tarfile.TarInfo) -> None:
        """Remove what is in the way of `member`; a directory stays for a directory."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        is_dir = stat.S_ISDIR(status.st_mode)
        if is_dir and member.isdir():
            return
        if is_dir != member.isdir() and self._keep_kinds:
            kinds = ("a directory", "something else") if is_dir else ("something else", "a directory")
            raise InvalidArgument(f"cannot overwrite {kinds[0]} {name} with {kinds[1]}")
        if is_dir:
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)

    def _make(self, directory: int, name: str, member: tarfile.TarInfo) -> None:
        mode = member.mode & 0o7777
        if member.isdir():
            try:
                os.mkdir(name, mode, dir_fd=directory)
            except FileExistsError:
                pass
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
        elif member.islnk():
            self._link(directory, name, member)
            return
        elif member.isfifo():
            os.mkfifo(name, mode, dir_fd=directory)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, mode | kind, os.makedev(member.devmajor, member.devminor), dir_fd=directory)
        elif member.isreg():
            self._write(directory, name, member)
        else:
            raise InvalidArgument(f"the archive has a member of unknown kind: {member.name}")
        owner = (member.uid, member.gid) if self._keep_owners else (0, 0)
        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, mode, dir_fd=directory)
            if not member.isdir():
                self._set_capability(directory, name, member)  # after chown(2), which takes it away
                os.utime(name, (member.mtime, member.mtime), dir_fd=directory, follow_symlinks=False)

    def _set_capability(self, directory: int, name: str, member: tarfile.TarInfo) -> None:
        value = member.pax_headers.get(_PAX_XATTR + _CAPABILITY)
        if value is None or not member.isreg():
            return
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.setxattr(f"/proc/self/fd/{descriptor}", _CAPABILITY, value.encode("utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)

    def _link(self, directory: int, name: str, member: tarfile.TarInfo) -> None:
        source, source_name = posixpath.split(self._path(member.linkname))
        origin = open_in_root(self._root, source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(source_name, name, src_dir_fd=origin, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(origin)

    def _write(self, directory: int, name: str, member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            content = self._archive.extractfile(member)
            if content is not None:
                for piece in _pieces(content):
                    file.write(piece)


def _clean(path: str) -> str:
    """An absolute path without "..", double slashes and the like."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_CHUNK):
        yield piece

