"""`python -m bench [NAME …] [--repeats N]`: run the benchmarks, print a line for each figure, write build/bench.json.

Every module of this package but its harness, engines and processes is a benchmark: it has a `measure`, and gives the
name. The large swarm is measured by itself: `python -m bench.scale`.
Exits with 1 when one of them broke; the figures of the others stand. What they started is gone also when this is told
to end (SIGINT, SIGTERM).
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
import traceback
from pathlib import Path

import bench
from bench.harness import Row, line, write

NOT_MEASURED = ("harness", "engines", "processes", "scale", "__main__")


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in NOT_MEASURED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(names())} (default: all)")
    parser.add_argument("--repeats", type=int, default=10, help="samples of each figure (default 10)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows: list[Row] = []
    failed: list[str] = []
    for name in arguments.names or names():
        try:
            for row in importlib.import_module(f"bench.{name}").measure(arguments.repeats):
                rows.append(row)
                print(line(row), flush=True)
        except Exception:  # noqa: BLE001  # one benchmark that breaks must not cost the figures of the others
            traceback.print_exc()
            failed.append(name)
    write(rows, Path("build/bench.json"))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
