"""The default seccomp profile: what a container may call that asks for nothing else.

Owns    the table. A call that is not in it fails with EPERM. The groups say why a call may be used; what is left out
        changes the host (clocks, modules, mounts, reboot), reaches into other processes' memory or the kernel's, or is
        a rarely used door (keyrings, userfaultfd, io_uring) that has let attackers out of containers before.
Law     A capability that the container has brings the calls which are its use: they are checked by the kernel then.
Source  syscalls(2), capabilities(7). In its sense this is the list Docker documents as its default profile.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from swarmpy.runtime import uapi

__all__ = ["default_profile"]

FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat
getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
fanotify_mark lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek
lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat _newselect open openat openat2 pipe
pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64
statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat
utimensat_time64 utimes vmsplice write writev cachestat statmount listmount
""".split()

WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list set_robust_list io_cancel io_destroy
io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit poll ppoll ppoll_time64 pselect6 pselect6_time64
select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
""".split()

MEMORY = """
brk get_mempolicy madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
""".split()

PROCESSES = """
alarm capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32 getgid getgid32
getgroups getgroups32 getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self nanosleep pause pidfd_open pidfd_send_signal prctl prlimit64
process_mrelease restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_thread_area set_tid_address
setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaltstack
sigprocmask sigreturn sysinfo tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
timer_settime timer_settime64 times tkill ugetrlimit uname vfork wait4 waitid waitpid get_thread_area
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday
adjtimex clock_adjtime clock_adjtime64
""".split()

SOCKETS_AND_IPC = """
accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd recv
recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto
setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair
""".split()

OWN_TRACING = ["ptrace", "process_vm_readv", "process_vm_writev"]  # safe with filters since Linux 4.8

MACHINES = {
    "x86_64": (["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], ["arch_prctl", "modify_ldt"]),
    "aarch64": (["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], ["arm_fadvise64_64", "arm_sync_file_range", "breakpoint",
                                                         "cacheflush", "set_tls", "sync_file_range2"]),
}  # fmt: skip

NAMESPACES = 0x7E02_0000
"""CLONE_NEW* of clone(2): without CAP_SYS_ADMIN a clone must ask for none of them."""

BY_CAPABILITY: dict[str, list[str]] = {
    "CAP_SYS_ADMIN": """bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd
        setdomainname sethostname setns syslog umount umount2 unshare""".split(),
    "CAP_BPF": ["bpf"],
    "CAP_PERFMON": ["perf_event_open"],
    "CAP_DAC_READ_SEARCH": ["open_by_handle_at"],
    "CAP_SYS_BOOT": ["reboot"],
    "CAP_SYS_CHROOT": ["chroot"],
    "CAP_SYS_MODULE": ["delete_module", "init_module", "finit_module"],
    "CAP_SYS_NICE": ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    "CAP_SYS_PACCT": ["acct"],
    "CAP_SYS_PTRACE": ["kcmp", "pidfd_getfd", "process_madvise", *OWN_TRACING],
    "CAP_SYS_RAWIO": ["iopl", "ioperm"],
    "CAP_SYS_TIME": ["settimeofday", "stime", "clock_settime", "clock_settime64"],
    "CAP_SYS_TTY_CONFIG": ["vhangup"],
    "CAP_SYSLOG": ["syslog"],
}

PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
"""personality(2): Linux, PER_LINUX32, UNAME26 with either, and asking for the present one."""

AF_ALG, AF_VSOCK = 38, 40


def default_profile(capabilities: Iterable[str]) -> dict[str, object]:
    """OCI `linux.seccomp` for a process whose bounding set is `capabilities` (CAP_ names)."""
    held = set(capabilities)
    architectures, own_calls = MACHINES[uapi.MACHINE]
    rules = [
        _allow([*FILES, *WAITING, *MEMORY, *PROCESSES, *SOCKETS_AND_IPC, *OWN_TRACING, *own_calls]),
        # Sockets of all families but two: the crypto interface of the kernel, and the hypervisor's.
        _allow(["socket"], {"index": 0, "value": AF_ALG, "op": "SCMP_CMP_LT"}),
        _allow(["socket"], {"index": 0, "value": AF_ALG + 1, "op": "SCMP_CMP_EQ"}),
        _allow(["socket"], {"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_GT"}),
    ]
    rules += [_allow(["personality"], {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}) for value in PERSONALITIES]
    rules += [_allow(calls) for capability, calls in BY_CAPABILITY.items() if capability in held]
    if "CAP_SYS_ADMIN" not in held:
        no_namespaces = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append(_allow(["clone"], no_namespaces))
        # The flags of clone3 lie in memory, where a filter cannot look. ENOSYS makes the C libraries use clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": architectures,
        "syscalls": rules,
    }


def _allow(names: list[str], *conditions: dict[str, object]) -> dict[str, object]:
    rule: dict[str, object] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if conditions:
        rule["args"] = list(conditions)
    return rule
