"""Cgroups: one contract for v1, v2 and hybrid against files in memory. test_limits.py asks the kernel."""

from __future__ import annotations

import errno
import itertools
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.runtime import RuntimeFailure
from swarmpy.runtime.cgroups import Cgroup, Layout, block_io, cpu, detect_layout, device_program, memory
from swarmpy.runtime.cgroups.device_attachment import load
from swarmpy.runtime.cgroups.devices import DeviceRule, parse_rules
from swarmpy.runtime.reader import Fields

V1_NAMES = ("cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb")
V1 = "".join(f"{n} 31 0:{n} / /sys/fs/cgroup/{w} rw - cgroup cgroup rw,{w}\n" for n, w in enumerate(V1_NAMES, 32))
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
NAMED = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"

V1_FILES = {
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.usage_in_bytes": "4096", "memory.max_usage_in_bytes": "8192", "memory.failcnt": "2",
        "memory.stat": "cache 1\nrss 2\n", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory.soft_limit_in_bytes": "", "memory.swappiness": "60",
    },
    "cpu,cpuacct": {
        "cpu.shares": "1024", "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpu.cfs_burst_us": "0",
        "cpu.stat": "nr_periods 4\nnr_throttled 1\nthrottled_time 500\n", "cpuacct.usage": "7000",
        "cpuacct.usage_user": "4000", "cpuacct.usage_sys": "3000", "cpuacct.usage_percpu": "3000 4000 ",
    },
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "pids": {"pids.max": "max", "pids.current": "3"},
    "devices": {"devices.allow": "", "devices.deny": ""},
    "freezer": {"freezer.state": "THAWED"},
    "blkio": {
        "blkio.weight": "500", "blkio.throttle.read_bps_device": "",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 50\nTotal 150\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 2\n8:0 Write 1\nTotal 3\n",
    },
    "hugetlb": {"hugetlb.2MB.limit_in_bytes": ""},
}  # fmt: skip
V2_FILES = {
    "memory.max": "max", "memory.swap.max": "max", "memory.current": "4096", "memory.peak": "8192", "memory.low": "0",
    "memory.stat": "anon 1\nfile 2\n", "memory.events": "max 2\noom 1\noom_kill 1\n", "pids.max": "max",
    "pids.current": "3", "cpu.weight": "100", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpuset.cpus": "",
    "cpu.stat": "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 4\nnr_throttled 1\nthrottled_usec 1\n",
    "cpuset.mems": "", "io.max": "", "io.weight": "default 100", "io.stat": "8:0 rbytes=100 wbytes=50 rios=2 wios=1\n",
    "cgroup.freeze": "0", "cgroup.events": "populated 1\nfrozen 0\n", "cgroup.kill": "", "hugetlb.2MB.max": "",
    "cgroup.subtree_control": "",
}  # fmt: skip
CONTROLLERS = "cpuset cpu io memory hugetlb pids rdma"


class MemoryFiles:
    """A cgroup mount in memory. As in the kernel, a new directory has its files, and others cannot be made."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.files: dict[str, str] = {}
        self.directories: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.programs: dict[str, bytes] = {}
        self.refused: set[tuple[str, str]] = set()
        for hierarchy in layout.hierarchies:
            self._furnish(hierarchy.mount)
            if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
                self.files[f"{hierarchy.mount}/cpuset.cpus"] = "0-3\n"
                self.files[f"{hierarchy.mount}/cpuset.mems"] = "0\n"

    def _furnish(self, path: str) -> None:
        self.directories.add(path)
        owner = max((h for h in self.layout.hierarchies if path.startswith(h.mount)), key=lambda h: len(h.mount))
        files = {"cgroup.procs": "", "tasks": ""} | (V2_FILES if owner.version == 2 else V1_FILES.get(owner.name, {}))
        self.files |= {f"{path}/{name}": text for name, text in files.items()}

    def make(self, path: str) -> None:
        if path in self.directories:
            raise FileExistsError(errno.EEXIST, "", path)
        if path.rpartition("/")[0] not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "", path)
        self._furnish(path)

    def remove(self, path: str) -> None:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "", path)
        if self.children(path):
            raise OSError(errno.EBUSY, "", path)
        self.directories.discard(path)
        self.files = {name: text for name, text in self.files.items() if not name.startswith(f"{path}/")}

    def read(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "", path)
        return self.files[path]

    def write(self, path: str, text: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "", path)
        if (path, text) in self.refused:
            raise OSError(errno.EINVAL, "Invalid argument", path)
        self.log.append((path, text))
        if path.endswith("cgroup.subtree_control"):
            words = {*self.files[path].split(), *(word[1:] for word in text.split())}
            text = " ".join(sorted(words))
        self.files[path] = text
        if path.endswith("cgroup.freeze"):
            self.files[path.replace("cgroup.freeze", "cgroup.events")] = f"populated 1\nfrozen {text}\n"

    def exists(self, path: str) -> bool:
        return path in self.directories or path in self.files

    def children(self, path: str) -> list[str]:
        return [name for name in self.directories if name.rpartition("/")[0] == path]

    def attach(self, path: str, program: bytes, previous: int | None) -> int:
        assert path in self.directories
        self.programs[path] = program
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if previous is None else previous


def layout_of(mountinfo: str, unified: str = CONTROLLERS) -> Layout:
    return detect_layout(mountinfo, lambda path: unified)


LAYOUTS = {
    "v1": layout_of(V1),
    "v2": layout_of(V2),
    "hybrid": layout_of(V1.replace("hugetlb", "x") + UNIFIED, "hugetlb"),
}


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
def files(layout: Layout) -> MemoryFiles:
    return MemoryFiles(layout)


def text_at(files: MemoryFiles, layout: Layout, controller: str, name: str) -> str:
    owner = layout.owner(controller)
    assert owner is not None
    return files.files[f"{owner.mount}/parent/c/{name}"].strip()


def test_layouts_are_told_apart() -> None:
    assert {name: layout.kind for name, layout in LAYOUTS.items()} == {"v1": "v1", "v2": "v2", "hybrid": "hybrid"}
    assert layout_of("").kind == "none"
    assert layout_of(NAMED + V1).owner("memory") == layout_of(V1).owner("memory")
    hybrid = LAYOUTS["hybrid"]
    for controller, version in (("memory", 1), ("devices", 1), ("freezer", 1), ("hugetlb", 2)):
        owner = hybrid.owner(controller)
        assert owner is not None and owner.version == version


def test_limits_of_every_kind(layout: Layout, files: MemoryFiles) -> None:
    cgroup = Cgroup(layout, "/parent/c", files)
    cgroup.create(
        {
            "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
            "cpu": {"shares": 2048, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "pids": {"limit": 42},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 77}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 5}],
        }
    )
    v2 = layout.kind == "v2"
    expected = (
        [
            ("memory", "memory.max", "1000"), ("memory", "memory.swap.max", "2000"), ("memory", "memory.low", "500"),
            ("cpu", "cpu.weight", "79"), ("cpu", "cpu.max", "50000 100000"), ("cpuset", "cpuset.cpus", "0-1"),
            ("io", "io.max", "8:0 rbps=77"),
        ]
        if v2
        else [
            ("memory", "memory.limit_in_bytes", "1000"), ("memory", "memory.memsw.limit_in_bytes", "3000"),
            ("memory", "memory.soft_limit_in_bytes", "500"), ("cpu", "cpu.shares", "2048"),
            ("cpu", "cpu.cfs_quota_us", "50000"), ("cpuset", "cpuset.cpus", "0-1"), ("cpuset", "cpuset.mems", "0"),
            ("blkio", "blkio.throttle.read_bps_device", "8:0 77"),
        ]
    )  # fmt: skip
    huge = "hugetlb.2MB.limit_in_bytes" if layout.kind == "v1" else "hugetlb.2MB.max"
    for controller, name, text in [*expected, ("pids", "pids.max", "42"), ("hugetlb", huge, "5")]:
        assert text_at(files, layout, controller, name) == text, name
    cgroup.remove()
    assert not [path for path in files.directories if path.endswith("/c")]


def test_unlimited(layout: Layout, files: MemoryFiles) -> None:
    Cgroup(layout, "/parent/c", files).create({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}})
    assert text_at(files, layout, "pids", "pids.max") == "max"
    name = "memory.max" if layout.kind == "v2" else "memory.limit_in_bytes"
    assert text_at(files, layout, "memory", name) == ("max" if layout.kind == "v2" else "-1")


def test_update_raises_and_lowers_in_an_order_the_kernel_takes(layout: Layout, files: MemoryFiles) -> None:
    cgroup = Cgroup(layout, "/parent/c", files)
    cgroup.create({"memory": {"limit": 1000, "swap": 2000}})
    for limit in (5000, 500):
        files.log.clear()
        cgroup.update({"memory": {"limit": limit, "swap": limit * 2}})
        if layout.kind != "v2":
            first = "memory.memsw.limit_in_bytes" if limit == 5000 else "memory.limit_in_bytes"
            assert files.log[0][0].endswith(first)
    assert cgroup.stats()["memory"]["limit"] == 500  # type: ignore[index]  # stats() is JSON


def test_pause_and_stats_and_oom(layout: Layout, files: MemoryFiles) -> None:
    cgroup = Cgroup(layout, "/parent/c", files)
    cgroup.create({})
    cgroup.freeze(True)
    name, frozen = ("cgroup.freeze", "1") if layout.kind == "v2" else ("freezer.state", "FROZEN")
    assert text_at(files, layout, "freezer", name) == frozen
    cgroup.freeze(False)
    assert cgroup.oom_kills() == 1
    stats: dict[str, Any] = cgroup.stats()
    assert (stats["memory"]["usage"], stats["memory"]["max_usage"], stats["memory"]["failures"]) == (4096, 8192, 2)
    assert stats["memory"]["limit"] is None and stats["pids"] == {"current": 3, "limit": None}
    assert (stats["cpu"]["usage_ns"], stats["cpu"]["user_ns"], stats["cpu"]["system_ns"]) == (7000, 4000, 3000)
    assert stats["cpu"]["throttling"]["throttled_periods"] == 1
    assert {"major": 8, "minor": 0, "op": "read", "bytes": 100, "count": 2} in stats["io"]


def test_a_second_one_of_that_name_is_refused(layout: Layout, files: MemoryFiles) -> None:
    Cgroup(layout, "/parent/c", files).create({})
    with pytest.raises(RuntimeFailure, match="already exists"):
        Cgroup(layout, "/parent/c", files).create({})


def test_a_failed_creation_is_undone(layout: Layout, files: MemoryFiles) -> None:
    with pytest.raises(RuntimeFailure, match=r"hugepageLimits\[0\].limit: this kernel has no hugetlb.3MB"):
        Cgroup(layout, "/parent/c", files).create({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})
    assert not [path for path in files.directories if path.endswith("/c")]


def test_controllers_that_the_host_lacks() -> None:
    bare = layout_of("36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    files = MemoryFiles(bare)
    Cgroup(bare, "/parent/c", files).create({"memory": {"limit": 1}})
    with pytest.raises(RuntimeFailure, match="no pids cgroup controller"):
        Cgroup(bare, "/parent/d", files).create({"pids": {"limit": 1}})
    cgroup = Cgroup(bare, "/parent/c", files)
    with pytest.raises(RuntimeFailure, match="no freezer"):
        cgroup.freeze(True)
    assert "pids" not in cgroup.stats()


def test_v2_enables_controllers_down_the_path() -> None:
    layout = LAYOUTS["v2"]
    files = MemoryFiles(layout)
    Cgroup(layout, "/a/b/c", files).create({"cpu": {"cpus": "0"}})
    for directory in ("/sys/fs/cgroup", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b"):
        assert files.files[f"{directory}/cgroup.subtree_control"] == "cpu cpuset io memory pids"
    assert files.files["/sys/fs/cgroup/a/b/c/cgroup.subtree_control"] == ""


def test_v2_enables_for_an_update_what_no_container_asked_for_before() -> None:
    layout = LAYOUTS["v2"]
    files = MemoryFiles(layout)
    cgroup = Cgroup(layout, "/a/c", files)
    cgroup.create({})
    assert files.files["/sys/fs/cgroup/a/cgroup.subtree_control"] == "cpu io memory pids"
    cgroup.update({"cpu": {"cpus": "0"}})
    assert files.files["/sys/fs/cgroup/a/cgroup.subtree_control"] == "cpu cpuset io memory pids"


def test_v2_does_without_a_controller_that_is_refused_unless_a_limit_needs_it() -> None:
    """As the kernel refuses cpu while a real-time process runs below."""
    layout = LAYOUTS["v2"]
    files = MemoryFiles(layout)
    files.refused.add(("/sys/fs/cgroup/cgroup.subtree_control", "+cpu"))
    Cgroup(layout, "/a/c", files).create({"memory": {"limit": 1}})
    assert files.files["/sys/fs/cgroup/a/cgroup.subtree_control"] == "io memory pids"
    with pytest.raises(RuntimeFailure, match=r"write '\+cpu' to /sys/fs/cgroup/cgroup.subtree_control: "):
        Cgroup(layout, "/a/d", files).create({"cpu": {"shares": 5}})


def test_v2_judges_devices_by_one_program_after_another() -> None:
    layout = LAYOUTS["v2"]
    files = MemoryFiles(layout)
    cgroup = Cgroup(layout, "/a/c", files)
    cgroup.create({})
    assert files.programs["/sys/fs/cgroup/a/c"] == device_program.assemble(parse_rules(Fields({}, "r")))
    rules: dict[str, object] = {"devices": [{"allow": True, "access": "rwm"}]}
    cgroup.update(rules)
    assert files.programs["/sys/fs/cgroup/a/c"] == device_program.assemble(parse_rules(Fields(rules, "r")))
    cgroup.remove()


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"memory": {"limit": 10, "swap": 5}}, "memory and swap together"),
        ({"memory": {"limit": "1g"}}, "memory.limit: expected an integer"),
        ({"memory": {"swappiness": 60}}, "memory.swappiness: cgroup v2 cannot do this"),
        ({"cpu": {"realtimeRuntime": 950}}, "cpu.realtimeRuntime: cgroup v2 cannot do this"),
        ({"unified": {"../x.y": "1"}}, "is not the name of a cgroup file"),
        ({"devices": [{"allow": True, "type": "q"}]}, "unknown type 'q'"),
    ],
)
def test_resources_that_cannot_be(resources: dict[str, object], text: str) -> None:
    layout = LAYOUTS["v2"]
    with pytest.raises(RuntimeFailure, match=text):
        Cgroup(layout, "/parent/c", MemoryFiles(layout)).create(resources)


def test_shares_to_weight() -> None:
    assert [cpu.weight_of(shares) for shares in (0, 2, 1024, 262144, 10**9)] == [1, 1, 39, 10000, 10000]


def test_swap_needs_a_limit_on_v2() -> None:
    with pytest.raises(RuntimeFailure, match="needs a limit of memory too"):
        memory.writes(Fields({"memory": {"swap": 5}}, "r"), 2, lambda name: "max")


@pytest.mark.parametrize(
    ("version", "has", "expected"),
    [
        (1, "", [("blkio.bfq.weight", "1000"), ("blkio.bfq.weight_device", "8:0 10")]),
        (1, "blkio.weight", [("blkio.weight", "1000"), ("blkio.weight_device", "8:0 10")]),
        (2, "", [("io.weight", "10000"), ("io.weight", "8:0 1")]),
        (2, "io.bfq.weight", [("io.bfq.weight", "1000"), ("io.bfq.weight", "8:0 10")]),
    ],
)
def test_io_weights_go_to_the_file_that_the_kernel_has(version: int, has: str, expected: list[tuple[str, str]]) -> None:
    device = {"major": 8, "minor": 0, "weight": 10}
    fields = Fields({"blockIO": {"weight": 1000, "weightDevice": [device]}}, "r")
    writes = block_io.writes(fields, version, lambda name: "" if name == has else None)
    assert [(write.file, write.text) for write in writes] == expected


RULES = st.lists(
    st.builds(
        DeviceRule,
        st.booleans(),
        st.sampled_from("abc"),
        st.none() | st.integers(0, 3),
        st.none() | st.integers(0, 3),
        st.sampled_from(["r", "w", "m", "rw", "rm", "rwm"]),
    ),
    max_size=6,
)


@given(RULES)
def test_the_device_program_decides_as_the_rules_say(rules: list[DeviceRule]) -> None:
    program = device_program.assemble(rules)
    for kind, major, minor, access in itertools.product("bc", (0, 2, 9), (1, 9), ("r", "w", "m", "rw")):
        access_to = (kind, major, minor, access)
        assert interpret(program, *access_to) == device_program.decide(rules, *access_to)


def interpret(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """The few instructions that the program has, by the standard."""
    bits = sum(device_program.ACCESS_BITS[letter] for letter in access)
    context = {0: bits << 16 | device_program.KINDS[kind], 4: major, 8: minor}
    registers = [0] * 11
    position = 0
    while True:
        code, both, offset, value = struct.unpack_from("<BBhI", program, position * 8)
        target, source = both & 15, both >> 4
        position += 1
        match code:
            case 0x61:
                registers[target] = context[offset]
            case 0xB4:
                registers[target] = value
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0x56:
                position += offset if registers[target] != value else 0
            case 0x5E:
                position += offset if registers[target] != registers[source] else 0
            case 0x16:
                position += offset if registers[target] == value else 0
            case 0x95:
                return bool(registers[0])
            case other:
                raise AssertionError(f"unknown instruction {other:#x}")


@pytest.mark.root
@given(RULES)
def test_the_kernels_verifier_takes_every_program(rules: list[DeviceRule]) -> None:
    os.close(load(device_program.assemble(rules)))
