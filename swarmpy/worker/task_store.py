"""Tasks of this node on disk, so that a daemon without managers knows what it runs.

Owns    `<state>/tasks.db`: templates, tasks, the last observed state of each, and which are on their way out.

SQLite in WAL mode with synchronous=NORMAL: each write survives a crash of the daemon, and the last few may be lost when
the machine loses power. That is enough: containers do not survive that either, and everything is done again from the
state before (see `steps`), or told again by the managers. The file holds registry credentials and is 0600.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from swarmpy.errors import Internal
from swarmpy.rpc.types_pb2 import Task, TaskStatus, TaskTemplate

__all__ = ["Kept", "TaskStore"]

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS templates (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY,
    template_id TEXT NOT NULL,
    data BLOB NOT NULL,
    status BLOB NOT NULL,
    going INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A task as an earlier daemon left it. `template` is None when it was never told."""

    task: Task
    template: TaskTemplate | None
    status: TaskStatus
    going: bool                  # no longer assigned; its container is to be removed


class TaskStore:
    """All methods run on one thread of their own, in call order. All raise Internal when the disk or file fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tasks.db")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> list[Kept]:
        """Open or make the file, and read what it holds."""
        return await self._run(self._open)

    async def put(self, templates: Iterable[TaskTemplate], tasks: Iterable[tuple[Task, TaskStatus]]) -> None:
        """Write new or changed tasks with the templates they need, in one transaction. A status is kept if known."""
        rows = [
            (task.id, task.template_id, task.SerializeToString(), status.SerializeToString())
            for task, status in tasks
        ]
        shared = [(template.id, template.SerializeToString()) for template in templates]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO templates VALUES (?, ?)", shared)
            db.executemany(
                "INSERT INTO tasks (id, template_id, data, status) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET data = excluded.data, status = excluded.status",
                rows,
            )

        await self._write(write)

    async def observed(self, statuses: Iterable[tuple[str, TaskStatus]]) -> None:
        """Write the last observed states."""
        rows = [(status.SerializeToString(), task_id) for task_id, status in statuses]
        await self._write(lambda db: db.executemany("UPDATE tasks SET status = ? WHERE id = ?", rows))

    async def going(self, task_ids: Iterable[str]) -> None:
        """Note that these are no longer assigned: their containers are removed, also by the next daemon."""
        rows = [(task_id,) for task_id in task_ids]
        await self._write(lambda db: db.executemany("UPDATE tasks SET going = 1 WHERE id = ?", rows))

    async def gone(self, task_id: str) -> None:
        """Nothing of the task is left on this node. Templates that no task uses go with it."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tasks WHERE id = ?", (task_id,))
            db.execute("DELETE FROM templates WHERE id NOT IN (SELECT template_id FROM tasks)")

        await self._write(write)

    async def close(self) -> None:
        """Write everything out."""
        await self._run(self._close)
        self._thread.shutdown()

    def _open(self) -> list[Kept]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = self._db = sqlite3.connect(self._path, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        templates = {
            str(key): TaskTemplate.FromString(data) for key, data in db.execute("SELECT id, data FROM templates")
        }
        return [
            Kept(Task.FromString(data), templates.get(template_id), TaskStatus.FromString(status), bool(going))
            for template_id, data, status, going in db.execute("SELECT template_id, data, status, going FROM tasks")
        ]

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    async def _write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        def write() -> None:
            if self._db is not None:
                with self._db:
                    change(self._db)

        await self._run(write)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (sqlite3.Error, OSError) as error:
            raise Internal(f"{self._path} cannot be read or written: {error}") from error
