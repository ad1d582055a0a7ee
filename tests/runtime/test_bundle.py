"""Reading `config.json`: what is missing or of the wrong kind is named by its field."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.runtime import ContainerIO, FailureKind, RuntimeFailure
from swarmpy.runtime.bundle import load_bundle, parse_bundle
from tests.runtime.conftest import Bundles, Host

CONFIG = Bundles(Path("/"), Path("/layer")).config("true")
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


def changed(path: str, value: object) -> dict[str, Any]:
    """A good configuration with one field set, or removed when `value` is `...`."""
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split("/")
    place: Any = config
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("ociVersion", ..., "ociVersion: 1.x is supported"),
        ("ociVersion", 1, "ociVersion: expected a string, got 1"),
        ("process", ..., "process: is missing"),
        ("process", [], "process: expected an object, got a list"),
        ("process/args", ..., "process.args: must name a program"),
        ("process/args", "sh", "process.args: expected a list, got 'sh'"),
        ("process/args", ["sh", 1], r"process.args\[1\]: expected a string, got 1"),
        ("process/args", ["a\0b"], "NUL"),
        ("process/env", ["NOTHING"], r"process.env\[0\]: expected NAME=value"),
        ("process/cwd", "tmp", "process.cwd: must be an absolute path"),
        ("process/user/uid", "root", "process.user.uid: expected an integer, got 'root'"),
        ("process/user/uid", True, "process.user.uid: expected an integer, got True"),
        ("process/user/uid", -1, "process.user.uid: -1 is not between"),
        ("process/user/umask", 0o1000, "process.user.umask"),
        ("process/terminal", "yes", "process.terminal: expected true or false"),
        ("process/rlimits", [{"type": "NOFILE"}], "unknown limit 'NOFILE'"),
        ("process/rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "soft 2 is above hard 1"),
        ("process/capabilities/bounding", ["CAP_FLY"], "unknown capability 'CAP_FLY'"),
        ("process/oomScoreAdj", 2000, "process.oomScoreAdj"),
        ("root", ..., "root.path: is missing"),
        ("hostname", "x" * 65, "hostname: is longer than 64 bytes"),
        ("mounts", [{"destination": "rel"}], r"mounts\[0\].destination: must be an absolute path"),
        ("mounts", ["x"], r"mounts\[0\]: expected an object"),
        ("linux/namespaces", [{"type": "time machine"}], "unknown namespace type"),
        ("linux/namespaces", [{"type": "mount"}, {"type": "mount"}], "mount is given twice"),
        ("linux/namespaces", [{"type": "mount"}, {"type": "pid", "path": "x"}], "must be an absolute path"),
        ("linux/namespaces", [{"type": "pid"}], "needs a new mount namespace"),
        ("linux/namespaces", [{"type": "mount"}], "hostname: needs a UTS namespace"),
        ("linux/namespaces", [{"type": n} for n in ("mount", "uts", "user")], "a new user namespace needs both"),
        ("linux/devices", [{"path": "/dev/x", "type": "z"}], "expected c, u, b or p"),
        ("linux/cgroupsPath", "/a/../b", "must not contain"),
        ("linux/rootfsPropagation", "loud", "unknown value 'loud'"),
        ("linux/sysctl", {"vm.swappiness": "1"}, "does not belong to any namespace"),
        ("linux/sysctl", {"net/../kernel/panic": "1"}, "does not belong to any namespace"),
        ("linux/mountLabel", "system_u", "SELinux labels are not supported"),
        ("annotations", {"io.swarmpy.rootfs": "{"}, "is not valid JSON"),
        ("annotations", {"io.swarmpy.rootfs": "{}"}, "needs lower, upper and work"),
        ("hooks", {"prestart": [{"path": "rel"}]}, "must be an absolute path"),
    ],
)
def test_complaints_name_the_field(path: str, value: object, text: str) -> None:
    with pytest.raises(RuntimeFailure, match=text) as failed:
        parse_bundle(changed(path, value), "/bundle")
    assert failed.value.kind is FailureKind.INVALID
    assert str(failed.value).startswith("config.json: ")


def test_null_is_absent() -> None:
    bundle = parse_bundle(changed("mounts", None), "/bundle")
    assert bundle.mounts == ()


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"config\.json: ENOENT"):
        load_bundle(str(tmp_path))
    for content, text in (("{", "not valid JSON"), ("[]", "expected an object"), ("[" * 100_000, "not valid JSON")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(RuntimeFailure, match=text):
            load_bundle(str(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [f"{name}" for name in CONFIG] + [f"{a}/{b}" for a in ("process", "linux", "root") for b in CONFIG[a]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), JSON)
def test_any_value_anywhere_is_read_or_refused(path: str, value: object) -> None:
    try:
        parse_bundle(changed(path, json.loads(json.dumps(value))), "/bundle")
    except RuntimeFailure as failure:
        assert failure.kind is FailureKind.INVALID


@pytest.mark.root
def test_a_refused_bundle_leaves_nothing(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        bundle = host.bundles.write(host.config("true"))
        (bundle / "config.json").write_text('{"ociVersion": "1.0"}')
        with pytest.raises(RuntimeFailure, match=r"container refused: config\.json: process: is missing"):
            await host.runtime.create("refused", bundle, ContainerIO())
        with pytest.raises(RuntimeFailure, match=r"config\.json: ENOENT"):
            await host.runtime.create("refused", bundle / "nowhere", ContainerIO())
        assert not list((host.state / "containers").iterdir())

    with_host(test)
