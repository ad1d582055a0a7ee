"""Copying the memory that will be written before anybody waits for it.

A forked process shares its parent's memory until it writes, and Python writes whatever it looks at: some thousand page
faults of two microseconds each lie in a container's way. The launcher finds out once which pages a creation writes, by
letting a child rehearse one. Every spare shim and init then copies just these, in a few calls and while it is idle.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence

from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["find_written", "warm"]

PageRange = tuple[int, int]
"""Address and length in bytes: struct iovec."""

PAGE = os.sysconf("SC_PAGESIZE")
CALL_RANGES = 1024  # limits.h, IOV_MAX
PRESENT, FILE_OR_SHARED, EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56  # admin-guide/mm/pagemap.rst


def find_written(kernel: LinuxKernel, rehearse: Callable[[], None]) -> tuple[bytes, ...]:
    """The memory that `rehearse` writes, found in a child that does nothing else. It holds for all our children.

    Arrays of struct iovec, each for one call.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = kernel.clone(0)
    if pid == 0:
        try:
            rehearse()
            with open(writer, "wb") as report:
                report.write(b"".join(struct.pack("=QQ", *found) for found in _exclusive_ranges()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        data = answer.read()
    os.waitpid(pid, 0)
    size = CALL_RANGES * 16
    return tuple(data[start : start + size] for start in range(0, len(data), size))


def warm(kernel: LinuxKernel, written: Sequence[bytes]) -> None:
    """Copy what `find_written` found."""
    for ranges in written:
        kernel.populate(ranges)


def _exclusive_ranges() -> list[PageRange]:
    """Memory of ours that is ours alone, neighbours joined: what was written since the fork."""
    found: list[PageRange] = []
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps:
            bounds, modes, *_ = line.split()
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if modes == "rw-p":
                entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
                found += _runs(start, [entry for (entry,) in struct.iter_unpack("=Q", entries)])
    return found


def _runs(start: int, entries: Sequence[int]) -> list[PageRange]:
    """Runs of written pages."""
    runs: list[PageRange] = []
    for index, entry in enumerate(entries):
        if not (entry & PRESENT and entry & EXCLUSIVE) or entry & FILE_OR_SHARED:
            continue
        address = start + index * PAGE
        if runs and address == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + PAGE)
        else:
            runs.append((address, PAGE))
    return runs
