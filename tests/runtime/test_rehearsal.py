"""The launcher's rehearsal, on kernels of every age: nothing that it opens may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.runtime import overlay
from swarmpy.runtime.cgroups import detect_layout
from swarmpy.runtime.rehearsal import rehearse_init, rehearse_shim


@pytest.mark.parametrize("release", [(6, 1), (6, 18)])
def test_nothing_of_a_rehearsal_needs_to_exist(release: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "kernel_release", lambda: release)
    rehearse_shim(detect_layout(Path("/proc/self/mountinfo").read_text(), lambda path: Path(path).read_text()))
    rehearse_init()
