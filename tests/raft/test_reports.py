"""What a member's thread tells the event loop, and how much of it in one turn."""

from __future__ import annotations

import asyncio
import time

from swarmpy.manager.raft.messages import Entry, EntryKind
from swarmpy.manager.raft.reports import Report, Reports


def test_all_else_has_its_turn_while_there_is_much_to_apply() -> None:
    async def story() -> list[int | str]:
        seen: list[int | str] = []
        loop = asyncio.get_running_loop()

        def take(report: Report) -> None:
            seen.extend(entry.index for entry in report.committed)
            loop.call_soon(seen.append, "else")

        reports = Reports(take, time.monotonic)
        for index, size in enumerate((1, 2, 64 << 10, 64 << 10, 3), 1):
            reports.now().committed.append(Entry(index, 1, EntryKind.NORMAL, bytes(size)))
            reports.hand_over()
        while seen.count("else") < 5:
            await asyncio.sleep(0)
        assert reports.untaken() == [Report()]
        return seen

    assert asyncio.run(story()) == [1, 2, 3, "else", "else", "else", 4, "else", 5, "else"]
