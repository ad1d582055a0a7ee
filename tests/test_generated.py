"""`make proto` gives what is committed in swarmpy/rpc, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    protos = sorted(path.name for path in (ROOT / "proto").glob("*.proto"))
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "-Iswarmpy/rpc=proto",
            f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}",
            *(f"swarmpy/rpc/{name}" for name in protos),
        ],
        cwd=ROOT,
        check=True,
    )  # fmt: skip
    generated = {path.name: path.read_text() for path in (tmp_path / "swarmpy/rpc").iterdir()}
    committed = {
        path.name: path.read_text() for path in (ROOT / "swarmpy/rpc").iterdir() if "_pb2" in path.name
    }
    assert generated == committed, "run `make proto` and commit what changes in swarmpy/rpc"
