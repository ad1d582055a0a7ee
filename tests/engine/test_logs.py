"""Reading logs: from the end, through rotations, up to what a crash cut short."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.engine.logs import LogLine, LogOptions, follow, read_files, tail_position
from swarmpy.engine.times import format_rfc3339

SECOND = 1_000_000_000


def entry(number: int, stream: str = "stdout", text: str = "") -> bytes:
    line = {"log": text or f"line {number}\n", "stream": stream, "time": format_rfc3339(number * SECOND)}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


async def nothing_more() -> None:
    raise AssertionError("nothing more will come")


def read_all(path: Path, options: LogOptions) -> list[str]:
    async def collect() -> list[LogLine]:
        return [line async for batch in follow(path, options, nothing_more, lambda: True) for line in batch]

    return [line.data.decode().strip() for line in asyncio.run(collect())]


def write_rotated(path: Path, parts: list[list[bytes]]) -> None:
    """`parts` from the oldest to the newest file."""
    for index, part in enumerate(reversed(parts)):
        name = path if index == 0 else path.with_name(f"{path.name}.{index}")
        name.write_bytes(b"".join(part))


def test_tail_since_until_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_rotated(path, [[entry(1), entry(2, "stderr")], [entry(3), entry(4, "stderr")], [entry(5)]])
    assert read_all(path, LogOptions()) == [f"line {n}" for n in range(1, 6)]
    assert read_all(path, LogOptions(tail=2)) == ["line 4", "line 5"]
    assert read_all(path, LogOptions(tail=0)) == []
    assert read_all(path, LogOptions(tail=2, stderr=False)) == ["line 3", "line 5"]
    assert read_all(path, LogOptions(since_ns=3 * SECOND, until_ns=4 * SECOND)) == ["line 3", "line 4"]
    assert read_all(path, LogOptions(stdout=False)) == ["line 2", "line 4"]


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry(1) + entry(2)[:20])
    assert read_all(path, LogOptions()) == ["line 1"]
    assert read_all(path, LogOptions(tail=1)) == ["line 1"]
    path.write_bytes(entry(1) + entry(2)[:20] + b"\n" + entry(3))
    assert read_all(path, LogOptions(tail=2)) == ["line 1", "line 3"]


def test_a_log_that_is_emptied_begins_anew(tmp_path: Path) -> None:
    """By truncate(1), as people do it to logs that have grown."""
    path = tmp_path / "log"
    path.write_bytes(entry(1) + entry(2))
    emptied = False

    async def changed() -> None:
        nonlocal emptied
        path.write_bytes(entry(3))
        emptied = True

    async def scenario() -> list[str]:
        batches = follow(path, LogOptions(follow=True), changed, lambda: emptied)
        return [line.data.decode().strip() async for batch in batches for line in batch]

    assert asyncio.run(scenario()) == ["line 1", "line 2", "line 3"]


def test_times_of_other_forms_are_shown_in_ours(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"x\\n","stream":"stderr","attrs":{"a":"1"},"time":"2024-01-01T00:00:00.5Z"}\n')

    async def first() -> LogLine:
        return (await anext(follow(path, LogOptions(), nothing_more, lambda: True)))[0]

    assert asyncio.run(first()) == ("stderr", "2024-01-01T00:00:00.500000000Z", b"x\n", {"a": "1"})


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_all(tmp_path / "log", LogOptions()) == []


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 11), max_size=3),
    wanted=st.integers(1, 15),
)
def test_the_tail_is_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: set[int], wanted: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    lines = [entry(number, text="x" * size + f"{number}\n") for number, size in enumerate(sizes)]
    edges = [0, *sorted(cut for cut in cuts if cut < len(lines)), len(lines)]
    write_rotated(path, [lines[a:b] for a, b in pairwise(edges)])
    index, offset = tail_position(read_files(path), wanted, lambda line: True)
    files = read_files(path)
    rest = files[index].read_bytes()[offset:] + b"".join(file.read_bytes() for file in files[index + 1 :])
    assert rest == b"".join(lines[-wanted:])


def test_following_goes_through_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry(1))
    more = asyncio.Event()
    ended = False

    async def changed() -> None:
        await more.wait()
        more.clear()

    async def scenario() -> list[str]:
        nonlocal ended
        seen = []
        batches = follow(path, LogOptions(follow=True), changed, lambda: ended)
        seen += [line.data for line in await anext(batches)]
        with path.open("ab") as file:
            file.write(entry(2))
        path.rename(path.with_name("log.1"))
        path.write_bytes(entry(3)[:10])
        more.set()
        seen += [line.data for line in await anext(batches)]
        with path.open("ab") as file:
            file.write(entry(3)[10:])
        ended = True
        more.set()
        async for batch in batches:
            seen += [line.data for line in batch]
        return [data.decode().strip() for data in seen]

    assert asyncio.run(scenario()) == ["line 1", "line 2", "line 3"]
