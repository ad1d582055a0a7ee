"""Root file systems of many layers, in both ways in which kernels are told of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.overlay import mount_overlay

pytestmark = pytest.mark.root

OLD = (6, 1)


def stack(directory: Path, count: int) -> list[str]:
    """Layers from the top; each has a file of its own, and all of them one that says which is seen."""
    paths = [directory / f"a layer: with a name of some length {number}" for number in reversed(range(count))]
    for number, path in enumerate(reversed(paths)):
        path.mkdir()
        (path / f"of {number}").touch()
        (path / "seen").write_text(str(number))
    return [str(path) for path in paths]


@pytest.mark.parametrize("release", [None, OLD])
def test_every_layer_is_seen_and_the_top_first(tmp_path: Path, release: tuple[int, int] | None) -> None:
    here = Path.cwd()
    mount = mount_overlay(LinuxKernel(), stack(tmp_path, 50), None, release=release)
    try:
        root = Path(f"/proc/self/fd/{mount}")
        assert {path.name for path in root.iterdir()} == {"seen", *(f"of {number}" for number in range(50))}
        assert (root / "seen").read_text() == "49"
    finally:
        os.close(mount)
    assert Path.cwd() == here


@pytest.mark.parametrize("release", [None, OLD])
def test_what_is_written_goes_to_the_upper_directory(tmp_path: Path, release: tuple[int, int] | None) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    root = mount_overlay(LinuxKernel(), stack(tmp_path, 30), (str(upper), str(work)), release=release)
    try:
        os.mkdir("new", dir_fd=root)
    finally:
        os.close(root)
    assert (upper / "new").is_dir()


def test_more_layers_than_the_kernel_can_be_told_of(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="100 layers are more than this kernel"):
        mount_overlay(LinuxKernel(), stack(tmp_path, 100), None, release=OLD)
