"""A later release of swarmpy for a machine to install, small enough for an emulated one.

Source  PyPA specifications: Binary distribution format; Entry points. site(3): path configuration files.
"""

from __future__ import annotations

import io
import zipfile

__all__ = ["wheel"]

NAME = "swarmpy"


def wheel(version: str, main: str, modules: str = "") -> bytes:
    """`main` is the text of the module that both commands run, in its function `main`. It needs nothing else.

    `modules` is a directory whose modules are the release's too.
    """
    info = f"{NAME}-{version}.dist-info"
    files = {
        f"later_{NAME}.py": main,
        f"later_{NAME}.pth": f"{modules}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{NAME} = later_{NAME}:main\n{NAME}d = later_{NAME}:main\n",
    }
    record = f"{info}/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        for name, text in files.items():
            written.writestr(name, text)
    return archive.getvalue()
