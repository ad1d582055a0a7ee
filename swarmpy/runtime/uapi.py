"""Numbers of the Linux user-space interface that Python does not name, each with the header it is from.

System call numbers from 424 on are the same on all architectures (asm-generic); the older ones used here are listed per
machine.
"""

from __future__ import annotations

import platform

# linux/sched.h
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_PARENT = 0x0000_8000
CLONE_INTO_CGROUP = 0x2_0000_0000

# linux/mount.h, sys/mount.h
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x20_0000
PROPAGATION_UNBINDABLE = 1 << 17
PROPAGATION_PRIVATE = MS_PRIVATE
PROPAGATION_SLAVE = MS_SLAVE
PROPAGATION_SHARED = 1 << 20
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000

# linux/fcntl.h, linux/openat2.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
SEAL_EVERYTHING = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
MFD_CLOEXEC = 0x1
MFD_ALLOW_SEALING = 0x2
MFD_EXEC = 0x10

# linux/prctl.h, linux/securebits.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1

# linux/magic.h
DEVPTS_SUPER_MAGIC = 0x1CD1

# asm-generic/ioctls.h
TIOCGPTPEER = 0x5441

# linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2

SYS_open_tree = 428
SYS_move_mount = 429
SYS_fsopen = 430
SYS_fsconfig = 431
SYS_fsmount = 432
SYS_pidfd_open = 434
SYS_clone3 = 435
SYS_close_range = 436
SYS_openat2 = 437
SYS_process_madvise = 440
SYS_mount_setattr = 442

MACHINE = platform.machine()
_OLD_CALLS = {
    "x86_64": {"rt_sigaction": 13, "pivot_root": 155, "seccomp": 317, "bpf": 321, "capset": 126},
    "aarch64": {"rt_sigaction": 134, "pivot_root": 41, "seccomp": 277, "bpf": 280, "capset": 91},
}
if MACHINE not in _OLD_CALLS:
    raise ImportError(f"swarmpy.runtime knows the system calls of x86_64 and aarch64, not of {MACHINE}")
SYS_rt_sigaction = _OLD_CALLS[MACHINE]["rt_sigaction"]
SYS_pivot_root = _OLD_CALLS[MACHINE]["pivot_root"]
SYS_seccomp = _OLD_CALLS[MACHINE]["seccomp"]
SYS_bpf = _OLD_CALLS[MACHINE]["bpf"]
SYS_capset = _OLD_CALLS[MACHINE]["capset"]

NAMESPACE_FLAGS = {
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "mount": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "user": CLONE_NEWUSER,
}
"""OCI `linux.namespaces[].type` to the flag of clone(2)."""
