"""Credentials for a registry, from docker's own configuration file.

Source  ~/.docker/config.json (`auths`, DOCKER_CONFIG); Docker Engine API: X-Registry-Auth is base64url of AuthConfig.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["auth_for"]


def auth_for(image: str) -> str:
    """The value of X-Registry-Auth for an image's registry; empty when nobody has logged in there."""
    first = image.split("/", 1)[0]
    named = "/" in image and ("." in first or ":" in first or first == "localhost")
    registry = first if named else "docker.io"
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        configuration = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        return ""
    import base64  # not for who has not logged in

    for address, entry in configuration.get("auths", {}).items():
        if address.removeprefix("https://").split("/", 1)[0].removeprefix("index.") == registry and "auth" in entry:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            given = {"username": user, "password": password, "serveraddress": address}
            return base64.urlsafe_b64encode(json.dumps(given).encode()).decode()
    return ""
