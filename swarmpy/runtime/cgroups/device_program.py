"""The BPF program that v2 asks about every device access.

`assemble` turns device rules into instructions, purely; cgroup.py loads and attaches them. The program gets
`struct bpf_cgroup_dev_ctx { __u32 access_type; __u32 major; __u32 minor; }` (linux/bpf.h), whose access_type is
`(access << 16) | type`, access being 1 mknod, 2 read, 4 write and type 1 block, 2 character. It answers 1 to allow.

Source  cgroup-v2.rst, "Device controller"; bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from swarmpy.runtime.cgroups.devices import DeviceRule

__all__ = ["assemble", "decide"]

TYPE, ACCESS, MAJOR, MINOR, CONTEXT, SCRATCH = 2, 3, 4, 5, 1, 6  # registers
KINDS = {"b": 1, "c": 2}
ACCESS_BITS = {"m": 1, "r": 2, "w": 4}

_LOAD_WORD, _MOVE, _MOVE_REGISTER = 0x61, 0xB4, 0xBC
_AND, _RIGHT_SHIFT, _JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _EXIT = 0x54, 0x74, 0x56, 0x5E, 0x95


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """`struct bpf_insn { __u8 code; __u8 dst_reg:4, src_reg:4; __s16 off; __s32 imm; }`, linux/bpf.h, 8 bytes."""
    return struct.pack("<BBhI", code, target | source << 4, offset, value & 0xFFFF_FFFF)


def assemble(rules: Sequence[DeviceRule]) -> bytes:
    """A program in which the last rule that matches decides, so the rules are asked backwards; none matching denies.

    A rule that allows matches an access that lies wholly in its letters; one that denies, an access that shares any.
    """
    program = [
        _instruction(_LOAD_WORD, TYPE, CONTEXT, 0),
        _instruction(_MOVE_REGISTER, ACCESS, TYPE),
        _instruction(_AND, TYPE, value=0xFFFF),
        _instruction(_RIGHT_SHIFT, ACCESS, value=16),
        _instruction(_LOAD_WORD, MAJOR, CONTEXT, 4),
        _instruction(_LOAD_WORD, MINOR, CONTEXT, 8),
    ]
    for rule in reversed(rules):
        program += _rule(rule)
        if _matches_all(rule):
            return b"".join(program)
    return b"".join([*program, _instruction(_MOVE, 0, value=0), _instruction(_EXIT)])


def _matches_all(rule: DeviceRule) -> bool:
    return rule.kind == "a" and rule.major is None and rule.minor is None and set(rule.access) == set("rwm")


def _rule(rule: DeviceRule) -> list[bytes]:
    """Tests that jump to the next rule, then the answer."""
    tests: list[tuple[int, int, int, int]] = []  # code, target, source, value; each jumps when it does not match
    before: dict[int, list[bytes]] = {}
    if rule.kind != "a":
        tests.append((_JUMP_NOT_EQUAL, TYPE, 0, KINDS[rule.kind]))
    mask = sum(ACCESS_BITS[letter] for letter in set(rule.access))
    if mask != 7:
        before[len(tests)] = [
            _instruction(_MOVE_REGISTER, SCRATCH, ACCESS),
            _instruction(_AND, SCRATCH, value=mask),
        ]
        if rule.allow:
            tests.append((_JUMP_NOT_EQUAL_REGISTER, SCRATCH, ACCESS, 0))
        else:
            tests.append((0x16, SCRATCH, 0, 0))  # jump when equal to 0: no letter in common
    if rule.major is not None:
        tests.append((_JUMP_NOT_EQUAL, MAJOR, 0, rule.major))
    if rule.minor is not None:
        tests.append((_JUMP_NOT_EQUAL, MINOR, 0, rule.minor))
    answer = [_instruction(_MOVE, 0, value=int(rule.allow)), _instruction(_EXIT)]
    code: list[bytes] = []
    for index in range(len(tests) - 1, -1, -1):  # backwards, so that the distance to the next rule is known
        operation, target, source, value = tests[index]
        jump = _instruction(operation, target, source, len(code) + len(answer), value)
        code = [*before.get(index, []), jump, *code]
    return code + answer


def decide(rules: Sequence[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """What the program answers, by the plainest reading of the rules; the tests compare the two."""
    for rule in reversed(rules):
        letters = set(access) <= set(rule.access) if rule.allow else bool(set(access) & set(rule.access))
        if rule.kind in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor) and letters:
            return rule.allow
    return False
