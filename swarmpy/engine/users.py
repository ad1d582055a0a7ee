"""Who `User` means inside a container: `passwd(5)` and `group(5)` of its root file system, never the host's.

Owns    parsing of the two files and of the forms "", "name", "uid", "name:group", "uid:gid". Pure: the files' text is
        passed in. `rootfs.py` reads it without leaving the container's root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarmpy.errors import InvalidArgument

__all__ = ["Identity", "resolve_user"]

_MOST = (1 << 32) - 2  # (uid_t)-1 means "leave unchanged" to the kernel


@dataclass(frozen=True)
class Identity:
    """A user of the container."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, the primary one first: without it, giving it up would open what is closed to the group."""
    home: str


def resolve_user(user: str, passwd: str, group: str, extra_groups: Sequence[str] = ()) -> Identity:
    """The identity that `user` names; `InvalidArgument` when a name is in neither file.

    A numeric user need not be listed: it then has group 0 and home "/". Naming a group drops the supplementary groups
    that `group(5)` lists, as in Docker; `extra_groups` (`--group-add`) always count.
    """
    name, has_group, group_name = user.partition(":")
    users, groups = _passwd(passwd), _group(group)
    entry = _find_user(name or "0", users)
    if entry is None:
        uid = _number(name or "0")
        if uid is None:
            raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")
        entry = _User("", uid, 0, "/")
    gid = entry.gid
    supplementary: tuple[int, ...] = ()
    if has_group and group_name:
        gid = _group_id(group_name, groups)
    elif entry.name:
        supplementary = tuple(item.gid for item in groups if entry.name in item.members)
    added = tuple(_group_id(item, groups) for item in extra_groups)
    return Identity(entry.uid, gid, tuple(dict.fromkeys((gid, *supplementary, *added))), entry.home or "/")


@dataclass(frozen=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def _passwd(text: str) -> list[_User]:
    out = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and (uid := _number(fields[2])) is not None and (gid := _number(fields[3])) is not None:
            out.append(_User(fields[0], uid, gid, fields[5]))
    return out


def _group(text: str) -> list[_Group]:
    out = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and (gid := _number(fields[2])) is not None:
            out.append(_Group(fields[0], gid, tuple(filter(None, fields[3].split(",")))))
    return out


def _find_user(wanted: str, users: Sequence[_User]) -> _User | None:
    by_name = next((item for item in users if item.name == wanted), None)
    return by_name or next((item for item in users if item.uid == _number(wanted)), None)


def _group_id(wanted: str, groups: Sequence[_Group]) -> int:
    for item in groups:
        if item.name == wanted:
            return item.gid
    gid = _number(wanted)
    if gid is None:
        raise InvalidArgument(f"unable to find group {wanted}: no matching entries in group file")
    return gid


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text.lstrip("0")) > 10 or (value := int(text)) > _MOST:
        raise InvalidArgument(f"uid or gid {text:.20} is out of range 0-{_MOST}")
    return value
