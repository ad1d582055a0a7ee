"""The log file: entries, cutting, rotation."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.runtime.json_log import MAX_ENTRY, JsonLog, LineSplitter

NOW = 1_700_000_000_123_456_789


def entries(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_form(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "log"), None, 1)
    log.write("stdout", b"hello\nwor", NOW)
    log.write("stderr", b'"quoted" \x00\x1b\n', NOW)
    log.write("stdout", b"ld\n", NOW)
    log.finish(NOW)
    assert entries(tmp_path / "log") == [
        {"log": text, "stream": stream, "time": "2023-11-14T22:13:20.123456789Z"}
        for text, stream in (("hello\n", "stdout"), ('"quoted" \x00\x1b\n', "stderr"), ("world\n", "stdout"))
    ]


def test_long_lines_are_cut_between_characters() -> None:
    splitter = LineSplitter()
    line = "é" * MAX_ENTRY
    pieces = [*splitter.feed(b"x" + line.encode() + b"\nnext"), *splitter.finish()]
    assert b"".join(pieces) == b"x" + line.encode() + b"\nnext"
    assert all(len(piece) <= MAX_ENTRY + 1 for piece in pieces)
    assert "".join(piece.decode() for piece in pieces)  # each is UTF-8 of its own
    assert [piece.endswith(b"\n") for piece in pieces] == [False, False, True, False]


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_nothing_is_lost_however_it_comes(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    found = [entry for chunk in chunks for entry in splitter.feed(chunk)] + splitter.finish()
    assert b"".join(found) == b"".join(chunks)
    assert all(entry.count(b"\n") <= 1 for entry in found)


def test_rotation_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog(str(path), 200, 3)
    for number in range(10):
        log.write("stdout", b"line %d\n" % number, NOW)
    log.finish(NOW)
    texts = [[entry["log"] for entry in entries(tmp_path / name)] for name in ("log.2", "log.1", "log")]
    assert texts == [["line 3\n", "line 4\n", "line 5\n"], ["line 6\n", "line 7\n", "line 8\n"], ["line 9\n"]]
    assert len(list(tmp_path.iterdir())) == 3


def test_one_file_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog(str(path), 150, 1)
    follower = path.open("rb")
    for number in range(5):
        log.write("stdout", b"line %d\n" % number, NOW)
    log.finish(NOW)
    assert [entry["log"] for entry in entries(path)] == ["line 4\n"]
    assert len(follower.readlines()) == 2, "who reads the old file finds it as it was"
    follower.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_every_entry_carries_the_attributes(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "log"), None, 1, {"tag": 'a "name"'})
    log.write("stdout", b"1\n2\n", NOW)
    log.finish(NOW)
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [entry["attrs"] for entry in written] == [{"tag": 'a "name"'}] * 2


def test_an_old_log_goes_on(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = JsonLog(str(tmp_path / "log"), 100_000, 1)
        log.write("stdout", text, NOW)
        log.finish(NOW)
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["one\n", "two\n"]
