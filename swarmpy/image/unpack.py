"""Unpacking: one layer's archive becomes one directory that overlayfs can use as a lower layer.

Owns    the rule that nothing in a layer reaches outside the layer's root. Every parent directory is opened by the
        kernel with that root as `/` (openat2, RESOLVE_IN_ROOT); the last component is then made relative to that
        descriptor by calls that never follow a link. The directory belongs to root alone and no container runs on it
        yet, so between two calls nobody else changes it.
Source  OCI image-spec, layer.md "Applying Changesets" and "Whiteouts"; kernel overlayfs.rst "whiteouts and opaque
        directories".

Whiteouts become what overlayfs reads: `.wh.NAME` a character device 0/0 called NAME, `.wh..wh..opq` the attribute
`trusted.overlay.opaque` of its directory. A whiteout speaks of the layers below alone, so a directory that the same
layer both whites out and fills is opaque.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarmpy.errors import Internal, InvalidArgument
from swarmpy.image.syscalls import open_in_root
from swarmpy.image.tar_reader import EntryKind, TarEntry, TarReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from swarmpy.image.durable import Trash

__all__ = ["UnpackLimits", "Unpacked", "unpack_layer"]

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_METADATA = b".wh..wh."
OVERLAY_OPAQUE = "trusted.overlay.opaque"
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
"""Orders to overlayfs (redirect, metacopy, opaque). From a layer's author they would lead it to files of his choice."""
OPEN_DIRECTORIES = 64
NAME_MAX = 255
PATH_MAX = 4096


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Bounds on one layer. Beyond them the layer is refused."""

    bytes: int = 64 << 30
    """Plain bytes of the archive, and apparent bytes of all its files."""
    entries: int = 5_000_000


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer's directory holds."""

    size_bytes: int
    entries: int
    opaque_root: bool
    """The layer hides everything below it. overlayfs has no such mark for a root, so lower layers are left out."""


def unpack_layer(reader: TarReader, root: Path, lower: Sequence[Path], trash: Trash, limits: UnpackLimits) -> Unpacked:
    """Fill the empty directory `root` from `reader`. `lower` are the directories of the layers below, topmost first.

    Directories that the archive only implies get owner and mode from the layers below, if those have them. Raises
    InvalidArgument for an archive that breaks the rules, naming the entry; Internal when the kernel refuses.
    """
    unpacker = _Unpacker(root, lower, trash, limits)
    try:
        return unpacker.run(reader)
    finally:
        unpacker.close()


class _Unpacker:
    def __init__(self, root: Path, lower: Sequence[Path], trash: Trash, limits: UnpackLimits) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._lower = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower]
        self._trash = trash
        self._limits = limits
        self._directories: dict[bytes, int] = {}
        """Open parents by path. Emptied whenever a directory or link goes away, as paths may then mean others."""
        self._times: dict[tuple[bytes, bytes], int] = {}
        """Modification times of directories, set last: filling a directory changes them."""
        self._size = 0
        self._opaque_root = False

    def run(self, reader: TarReader) -> Unpacked:
        self._inherit(b"", self._root, b".")
        count = 0
        for entry in reader:
            count += 1
            if count > self._limits.entries:
                raise InvalidArgument(f"the layer has more than {self._limits.entries} entries, the limit set for one")
            try:
                self._apply(entry, reader)
            except OSError as error:
                raise _explain(entry, error) from error
        self._set_times()
        return Unpacked(self._size, count, self._opaque_root)

    def close(self) -> None:
        self._forget_directories()
        for fd in (self._root, *self._lower):
            os.close(fd)

    def _apply(self, entry: TarEntry, reader: TarReader) -> None:
        parent, base = split_name(entry)
        if base == b"":
            if entry.kind is not EntryKind.DIRECTORY:
                raise InvalidArgument(f"archive entry {entry.display} names the root and is not a directory")
            self._finish_directory(entry, b"", self._root, b".")
            return
        if base.startswith(WHITEOUT) or parent.startswith(WHITEOUT) or b"/.wh." in parent:
            if _is_aufs_metadata(parent, base):
                return
            self._whiteout(entry, parent, base)
            return
        directory = self._directory(parent)
        match entry.kind:
            case EntryKind.FILE:
                self._file(entry, reader, directory, parent, base)
            case EntryKind.DIRECTORY:
                self._make_directory(directory, parent, base)
                self._finish_directory(entry, parent, directory, base)
            case EntryKind.SYMLINK:
                self._vacate(directory, parent, base)
                os.symlink(entry.link, base, dir_fd=directory)
                self._finish(entry, directory, base)
            case EntryKind.HARDLINK:
                self._hardlink(entry, directory, parent, base)
            case _:
                self._node(entry, directory, parent, base)

    # Kinds of entries

    def _file(self, entry: TarEntry, reader: TarReader, directory: int, parent: bytes, base: bytes) -> None:
        self._size += entry.size
        if self._size > self._limits.bytes:
            raise InvalidArgument(f"the layer's files exceed {self._limits.bytes} bytes, the limit set for a layer")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(base, flags, 0o600, dir_fd=directory)
        except FileExistsError:
            self._vacate(directory, parent, base)
            fd = os.open(base, flags, 0o600, dir_fd=directory)
        try:
            if entry.sparse is None:
                for piece in reader.data(entry):
                    while piece:
                        piece = piece[os.write(fd, piece) :]
            else:
                _write_sparse(fd, entry, reader)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)  # after chown, which drops set-user-id
            if entry.xattrs:
                _set_xattrs(fd, entry)  # after chown, which drops capabilities
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _hardlink(self, entry: TarEntry, directory: int, parent: bytes, base: bytes) -> None:
        target_parent, target_base = clean_path(entry.link, entry)
        source = open_in_root(self._root, target_parent, os.O_PATH | os.O_DIRECTORY)
        try:
            target = os.stat(target_base or b".", dir_fd=source, follow_symlinks=False)
            present = _lstat(base, directory)
            if present is not None:
                if (present.st_dev, present.st_ino) == (target.st_dev, target.st_ino):
                    return
                self._vacate(directory, parent, base)
            # Without AT_SYMLINK_FOLLOW a link to a symbolic link is a second name of that link, wherever it points.
            os.link(target_base or b".", base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _node(self, entry: TarEntry, directory: int, parent: bytes, base: bytes) -> None:
        kind = {
            EntryKind.CHAR_DEVICE: stat.S_IFCHR,
            EntryKind.BLOCK_DEVICE: stat.S_IFBLK,
            EntryKind.FIFO: stat.S_IFIFO,
        }[entry.kind]
        major, minor = entry.device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise InvalidArgument(f"archive entry {entry.display} has device {major}:{minor}, which Linux cannot have")
        self._vacate(directory, parent, base)
        os.mknod(base, kind | 0o600, os.makedev(major, minor), dir_fd=directory)
        self._finish(entry, directory, base)

    def _whiteout(self, entry: TarEntry, parent: bytes, base: bytes) -> None:
        hidden = base.removeprefix(WHITEOUT)
        if any(part.startswith(WHITEOUT) for part in parent.split(b"/")) or not base.startswith(WHITEOUT):
            raise InvalidArgument(f"archive entry {entry.display} lies under a whiteout, which is not a directory")
        if base == OPAQUE:
            if parent == b"":
                self._opaque_root = True
            else:
                self._mark_opaque(self._directory(parent), b".")
            return
        if hidden in (b"", b".", b".."):
            raise InvalidArgument(f"archive entry {entry.display} is a whiteout of nothing that can exist")
        directory = self._directory(parent)
        present = _lstat(hidden, directory)
        if present is None:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
        elif stat.S_ISDIR(present.st_mode):
            self._mark_opaque(directory, hidden)

    # Directories

    def _directory(self, path: bytes) -> int:
        """A descriptor of the directory `path`, made if the layer has only implied it so far."""
        if path == b"":
            return self._root
        if (known := self._directories.get(path)) is not None:
            return known
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            fd = open_in_root(self._root, path, flags)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            parent, _, base = path.rpartition(b"/")
            above = self._directory(parent)
            if self._make_directory(above, parent, base, only_whiteouts=True):
                os.chmod(base, 0o755, dir_fd=above)  # whatever the umask made of it
                self._inherit(path, above, base)
            fd = open_in_root(self._root, path, flags)
        return self._remember(path, fd)

    def _remember(self, path: bytes, fd: int) -> int:
        if len(self._directories) >= OPEN_DIRECTORIES:
            self._forget_directories()
        self._directories[path] = fd
        return fd

    def _make_directory(self, directory: int, parent: bytes, base: bytes, *, only_whiteouts: bool = False) -> bool:
        """`base` is a directory; True when it was made now. One that was whited out in this layer becomes opaque."""
        try:
            os.mkdir(base, 0o755, dir_fd=directory)
            return True
        except FileExistsError:
            present = os.stat(base, dir_fd=directory, follow_symlinks=False)
        whiteout = _is_whiteout(present)
        if stat.S_ISDIR(present.st_mode) or (only_whiteouts and not whiteout):
            return False
        self._vacate(directory, parent, base)
        os.mkdir(base, 0o755, dir_fd=directory)
        if whiteout:
            self._mark_opaque(directory, base)
        return True

    def _vacate(self, directory: int, parent: bytes, base: bytes) -> None:
        """Nothing is called `base` any more: a later entry of an archive replaces an earlier one."""
        present = _lstat(base, directory)
        if present is None:
            return
        if stat.S_ISDIR(present.st_mode):
            self._trash.throw(base, dir_fd=directory)
            path = parent + b"/" + base if parent else base
            inside = path + b"/"
            self._times = {
                key: time
                for key, time in self._times.items()
                if key != (parent, base) and key[0] != path and not key[0].startswith(inside)
            }
        else:
            os.unlink(base, dir_fd=directory)
        if not stat.S_ISREG(present.st_mode):
            self._forget_directories(keep=directory)

    def _inherit(self, path: bytes, directory: int, base: bytes) -> None:
        """Give an implied directory what the topmost layer below that has it says of it."""
        for lower in self._lower:
            try:
                fd = open_in_root(lower, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_DIRECTORY)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                return  # not a directory down there: the new one hides it
            try:
                status = os.fstat(fd)
                os.chown(base, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
                os.chmod(base, stat.S_IMODE(status.st_mode), dir_fd=directory)
                for name in os.listxattr(fd):
                    if not os.fsencode(name).startswith(OVERLAY_XATTRS):
                        os.setxattr(_proc_path(directory, base), name, os.getxattr(fd, name), follow_symlinks=False)
                self._times[path.rpartition(b"/")[0], base] = status.st_mtime_ns
            finally:
                os.close(fd)
            return

    def _finish_directory(self, entry: TarEntry, parent: bytes, directory: int, base: bytes) -> None:
        os.chown(base, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        os.chmod(base, entry.mode, dir_fd=directory)
        if entry.xattrs:
            _set_xattrs(_proc_path(directory, base), entry)
        self._times[parent, base] = entry.mtime_ns

    def _finish(self, entry: TarEntry, directory: int, base: bytes) -> None:
        """Owner, mode, attributes and time of what is neither a file nor a directory."""
        os.chown(base, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind is not EntryKind.SYMLINK:
            os.chmod(base, entry.mode, dir_fd=directory)
        if entry.xattrs:
            _set_xattrs(_proc_path(directory, base), entry)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _mark_opaque(self, directory: int, base: bytes) -> None:
        os.setxattr(_proc_path(directory, base), OVERLAY_OPAQUE, b"y", follow_symlinks=False)

    def _set_times(self) -> None:
        for (parent, base), mtime_ns in self._times.items():
            directory = self._root if parent == b"" else self._directories.get(parent)
            if directory is None:
                try:
                    directory = open_in_root(self._root, parent, os.O_PATH | os.O_DIRECTORY)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                        raise
                    continue  # reached through a link that a later entry replaced
                self._remember(parent, directory)
            present = _lstat(base, directory)
            if present is not None and stat.S_ISDIR(present.st_mode):
                os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _forget_directories(self, *, keep: int = -1) -> None:
        for path, fd in list(self._directories.items()):
            if fd != keep:
                os.close(fd)
                del self._directories[path]


def split_name(entry: TarEntry) -> tuple[bytes, bytes]:
    """Parent and last component of an entry's name; both empty for the root."""
    return clean_path(entry.name, entry)


def clean_path(name: bytes, entry: TarEntry) -> tuple[bytes, bytes]:
    """`name` without its slashes at the ends, its `.` and its `..`, as parent and last component.

    InvalidArgument when it is empty, too long, or its `..` lead above the root.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise InvalidArgument(f"archive entry {entry.display} leads out of the layer by ..")
            parts.pop()
        elif len(part) > NAME_MAX:
            raise InvalidArgument(f"archive entry {entry.display} has a name longer than {NAME_MAX} bytes")
        else:
            parts.append(part)
    if name == b"" or len(name) >= PATH_MAX:
        raise InvalidArgument(f"archive entry {entry.display[:64]} has a path of no bytes, or of {PATH_MAX} or more")
    if not parts:
        return b"", b""
    return b"/".join(parts[:-1]), parts[-1]


def _is_aufs_metadata(parent: bytes, base: bytes) -> bool:
    """Bookkeeping of AUFS (`.wh..wh.plnk`, `.wh..wh.aufs`), which old archives still carry and nobody needs."""
    parts = [*parent.split(b"/"), base]
    return base != OPAQUE and any(part.startswith(AUFS_METADATA) and part != OPAQUE for part in parts)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _lstat(base: bytes, directory: int) -> os.stat_result | None:
    try:
        return os.stat(base, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _proc_path(directory: int, base: bytes) -> bytes:
    """A path that starts at a descriptor, for the calls on attributes that take none (setxattrat is new in 6.13)."""
    return b"/proc/self/fd/%d/%s" % (directory, base)


def _set_xattrs(target: int | bytes, entry: TarEntry) -> None:
    for name, value in entry.xattrs:
        if name.startswith(OVERLAY_XATTRS):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            # ENOTSUP: the file system has no such class of attributes. EPERM on `user.`: only files and directories may
            # have them (xattr(7)). Both hold for the image wherever it is unpacked on this machine.
            if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and name.startswith(b"user.")):
                continue
            raise


def _write_sparse(fd: int, entry: TarEntry, reader: TarReader) -> None:
    os.ftruncate(fd, entry.size)
    stretches = iter([stretch for stretch in entry.sparse or () if stretch[1]])
    offset, left = next(stretches, (0, 0))
    for piece in reader.data(entry):
        view = piece
        while view:
            if not left:
                offset, left = next(stretches)
            written = os.pwrite(fd, view[:left], offset)
            offset, left, view = offset + written, left - written, view[written:]


def _explain(entry: TarEntry, error: OSError) -> InvalidArgument | Internal:
    """Whose fault it is that an entry could not be made."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENOENT and entry.kind is EntryKind.HARDLINK:
        target = entry.link.decode("utf-8", "backslashreplace")
        return InvalidArgument(f"archive entry {entry.display} is a hard link to {target!r}, which is not in the layer")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EINVAL):
        return InvalidArgument(f"archive entry {entry.display} ({entry.kind.value}) cannot be unpacked: {reason}")
    if error.errno == errno.EPERM and entry.kind is EntryKind.HARDLINK:
        return InvalidArgument(f"archive entry {entry.display} is a hard link to a directory")
    return Internal(f"archive entry {entry.display} ({entry.kind.value}) could not be written: {reason}")
