"""OCI `linux.seccomp` to a BPF program, through libseccomp, once for each profile.

Owns    the translation and its cache on disk: compiling takes some ten milliseconds, reading what was compiled none.
Source  OCI config-linux.md, "Seccomp"; seccomp_rule_add(3), seccomp_export_bpf(3); seccomp.h for the numbers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import zlib
from functools import cache

from swarmpy.runtime import uapi
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.process_setup import SeccompFilter
from swarmpy.runtime.reader import Fields

__all__ = ["compile_profile", "compiled"]

ACTIONS = {
    "SCMP_ACT_KILL": 0x0000_0000,
    "SCMP_ACT_KILL_THREAD": 0x0000_0000,
    "SCMP_ACT_KILL_PROCESS": 0x8000_0000,
    "SCMP_ACT_TRAP": 0x0003_0000,
    "SCMP_ACT_ERRNO": 0x0005_0000,
    "SCMP_ACT_TRACE": 0x7FF0_0000,
    "SCMP_ACT_LOG": 0x7FFC_0000,
    "SCMP_ACT_ALLOW": 0x7FFF_0000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
COMPARISONS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
ATTRIBUTE_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE; value 2 sorts the calls into a binary tree
NOT_A_CALL = -1  # __NR_SCMP_ERROR


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp { unsigned int arg; enum scmp_compare op; scmp_datum_t datum_a, datum_b; }`, 24 bytes."""

    _fields_ = [
        ("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64),
    ]  # fmt: skip


def compiled(section: dict[str, object], directory: str) -> SeccompFilter:
    """The filter for a `linux.seccomp` section, from the cache in `directory` when it was compiled before."""
    fields = Fields(section, "config.json: linux.seccomp")
    flags = 0
    for name in fields.texts("flags"):
        if name not in FLAGS:
            raise RuntimeFailure(f"{fields.at('flags')}: {name} is not supported", FailureKind.INVALID)
        flags |= FLAGS[name]
    profile = json.dumps([uapi.MACHINE, section]).encode()
    # A checksum finds the file, and the profile in it says whether it is the one: hashlib would load libcrypto here.
    file = f"{directory}/{zlib.crc32(profile):08x}-{len(profile)}"
    program = _cached(file, profile)
    if program is None:
        program = compile_profile(fields)
        os.makedirs(directory, 0o700, exist_ok=True)
        with open(f"{file}.{os.getpid()}", "wb") as new:
            new.write(profile + program)
        os.replace(f"{file}.{os.getpid()}", file)
    return SeccompFilter(program, flags)


def _cached(file: str, profile: bytes) -> bytes | None:
    try:
        with open(file, "rb", buffering=0) as cached:
            content = cached.read()
    except FileNotFoundError:
        return None
    return content[len(profile) :] if content.startswith(profile) else None


def compile_profile(fields: Fields) -> bytes:
    """The BPF program. Calls that libseccomp does not know are left out: this machine does not have them either."""
    library = _library()
    default = _action(fields, "defaultAction", "defaultErrnoRet")
    context = library.seccomp_init(ctypes.c_uint32(default))
    if not context:
        raise RuntimeFailure(f"{fields.path}: libseccomp refused the default action", FailureKind.INVALID)
    try:
        _check(library.seccomp_attr_set(context, ATTRIBUTE_OPTIMIZE, 2), "optimize")
        _add_architectures(library, context, fields)
        for rule in fields.objects("syscalls"):
            _add_rule(library, context, rule, default)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise RuntimeFailure("libseccomp.so.2 is missing; install the package libseccomp2") from None
    library.seccomp_init.restype = ctypes.c_void_p
    for name in ("seccomp_attr_set", "seccomp_arch_add", "seccomp_export_bpf", "seccomp_release"):
        getattr(library, name).argtypes = {
            "seccomp_attr_set": [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32],
            "seccomp_arch_add": [ctypes.c_void_p, ctypes.c_uint32],
            "seccomp_export_bpf": [ctypes.c_void_p, ctypes.c_int],
            "seccomp_release": [ctypes.c_void_p],
        }[name]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def _action(fields: Fields, name: str, errno_name: str) -> int:
    text = fields.text(name)
    if text not in ACTIONS:
        raise RuntimeFailure(f"{fields.at(name)}: unknown or unsupported action {text!r}", FailureKind.INVALID)
    number = fields.integer(errno_name, errno.EPERM, low=0, high=4095) if text in WITH_ERRNO else 0
    return ACTIONS[text] | number


def _add_architectures(library: ctypes.CDLL, context: int, fields: Fields) -> None:
    for name in fields.texts("architectures"):
        number = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if number == 0:
            raise RuntimeFailure(f"{fields.at('architectures')}: unknown architecture {name!r}", FailureKind.INVALID)
        result = library.seccomp_arch_add(context, number)
        if result not in (0, -errno.EEXIST):
            _check(result, name)


def _add_rule(library: ctypes.CDLL, context: int, rule: Fields, default: int) -> None:
    action = _action(rule, "action", "errnoRet")
    if action == default:
        return
    comparisons = [_comparison(argument) for argument in rule.objects("args")]
    # libseccomp takes each argument once in a rule. Conditions on the same one are alternatives then, as runc has it.
    arguments = [comparison.arg for comparison in comparisons]
    groups = [comparisons] if len(set(arguments)) == len(arguments) else [[one] for one in comparisons]
    for name in rule.texts("names"):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == NOT_A_CALL:
            continue
        for group in groups:
            array = (_Comparison * len(group))(*group)
            result = library.seccomp_rule_add_array(context, action, number, len(group), array)
            if result not in (0, -errno.EEXIST, -errno.EDOM):  # EDOM: not on one of the architectures
                _check(result, f"rule for {name}")


def _comparison(fields: Fields) -> _Comparison:
    operator = fields.text("op")
    if operator not in COMPARISONS:
        raise RuntimeFailure(f"{fields.at('op')}: unknown comparison {operator!r}", FailureKind.INVALID)
    return _Comparison(
        fields.integer("index", low=0, high=5), COMPARISONS[operator], fields.integer("value", low=0),
        fields.integer("valueTwo", low=0),
    )  # fmt: skip


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _check(library.seccomp_export_bpf(context, descriptor), "export")
        file.seek(0)
        return file.read()


def _check(result: int, what: str) -> None:
    if result < 0:
        raise RuntimeFailure(f"linux.seccomp: {what}: {os.strerror(-result)}", FailureKind.INVALID)
