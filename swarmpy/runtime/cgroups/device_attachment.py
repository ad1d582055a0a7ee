"""Giving a device program to the kernel.

Source  bpf(2): BPF_PROG_LOAD, BPF_PROG_ATTACH and BPF_PROG_DETACH, `union bpf_attr` in linux/bpf.h.
"""

from __future__ import annotations

import os
import struct

from swarmpy.runtime import uapi
from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["attach", "load"]

LOG_BYTES = 65536


def attach(directory: str, program: bytes, previous: int | None) -> int:
    """The cgroup's devices are judged by `program`; `previous`, a descriptor from here, is detached and closed.

    The new one is attached before the old one goes, so that there is no moment without. Programs of the cgroups above
    are asked as well (BPF_F_ALLOW_MULTI), systemd's among them. Returns the new descriptor.
    """
    loaded = load(program)
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel = LinuxKernel()
    try:
        # `struct { __u32 target_fd, attach_bpf_fd, attach_type, attach_flags; }`
        attributes = struct.pack("=IIII", target, loaded, uapi.BPF_CGROUP_DEVICE, uapi.BPF_F_ALLOW_MULTI)
        kernel.bpf(uapi.BPF_PROG_ATTACH, attributes)
        if previous is not None:
            kernel.bpf(uapi.BPF_PROG_DETACH, struct.pack("=III", target, previous, uapi.BPF_CGROUP_DEVICE))
            os.close(previous)
        return loaded
    except OSError as error:
        os.close(loaded)
        raise RuntimeFailure(f"linux.resources.devices: {error}") from None
    finally:
        os.close(target)


def load(program: bytes) -> int:
    """BPF_PROG_LOAD. Returns a descriptor.

    `struct { __u32 prog_type, insn_cnt; __u64 insns, license; __u32 log_level, log_size; __u64 log_buf; }`.
    Raises RuntimeFailure with what the verifier said.
    """
    import ctypes  # where there is no v2, a shim does without

    instructions = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(LOG_BYTES)
    attributes = struct.pack(
        "=IIQQIIQ",
        uapi.BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8,
        ctypes.addressof(instructions), ctypes.addressof(license_text), 1, len(log), ctypes.addressof(log),
    )  # fmt: skip
    try:
        return LinuxKernel().bpf(uapi.BPF_PROG_LOAD, attributes)
    except OSError as error:
        raise RuntimeFailure(
            f"linux.resources.devices: load device program: {error} {log.value.decode(errors='replace').strip()}"
        ) from None
