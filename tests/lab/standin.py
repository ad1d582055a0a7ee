"""A daemon as far as the lab looks at one: takes swarmpyd's options, answers GET /_ping, and echoes on TCP port 8080.

The lab is under test here, not the daemon: this one starts in an instant.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path


def prepared() -> argparse.Namespace:
    """The options, with the directories made and this start counted."""
    parser = argparse.ArgumentParser()
    for option in ("data-root", "exec-root", "host", "cgroup-parent", "node-name"):
        parser.add_argument(f"--{option}", required=True)
    given = parser.parse_args()
    for directory in (given.data_root, given.exec_root):
        Path(directory).mkdir(parents=True, exist_ok=True)
    count = Path(given.data_root, "starts")
    count.write_text(count.read_text() + "x" if count.exists() else "x")
    Path(given.host.removeprefix("unix://")).unlink(missing_ok=True)
    return given


async def main(given: argparse.Namespace) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
        await writer.drain()
        writer.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(given.node_name.encode() + b"\n")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    api_path = given.host.removeprefix("unix://")
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with await asyncio.start_unix_server(answer, api_path), await asyncio.start_server(echo, "0.0.0.0", 8080):
        await ended.wait()


asyncio.run(main(prepared()))
