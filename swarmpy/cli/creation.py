"""Making a container: its configuration from the flags, its image from the registry where it is missing.

Source  docker create; Docker Engine API, POST /containers/create.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swarmpy.cli.container_flags import CONTAINER
from swarmpy.cli.failures import ApiError, WrongFlag
from swarmpy.cli.flags import apply
from swarmpy.cli.image import pull_image
from swarmpy.cli.output import print_warning

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["Creation", "configuration", "make"]

NOT_FOUND = 404
PULLS = ("always", "missing", "never")


class Creation(NamedTuple):
    """What else is said of a new container. `pull` says when its image is fetched: one of PULLS."""

    name: str = ""
    platform: str = ""
    pull: str = "missing"
    quiet: bool = False


def configuration(image: str, command: list[str] | None, given: dict[str, Any], *, attach: bool) -> dict[str, Any]:
    """ContainerConfig with its HostConfig. `attach`: a process will be joined to it."""
    body: dict[str, Any] = {"Image": image, "AttachStdout": attach, "AttachStderr": attach}
    if command:
        body["Cmd"] = list(command)
    apply(body, CONTAINER, given)
    if given.get("attach") and not attach:
        raise WrongFlag("--attach and --detach exclude each other")
    if attach and body.get("OpenStdin"):
        body["AttachStdin"] = body["StdinOnce"] = body.get("AttachStdin", not given.get("attach"))
    return body


def make(daemon: Client, creation: Creation, body: dict[str, Any]) -> str:
    """Create the container, and return its id."""
    if creation.pull not in PULLS:
        raise WrongFlag(f"--pull: {creation.pull!r} is not one of {', '.join(PULLS)}")
    with id_file(body.get("HostConfig", {}).get("ContainerIDFile", "")) as write_id:
        made = with_image(daemon, creation, body)
        write_id(made["Id"])
    for warning in made.get("Warnings") or []:
        print_warning(f"WARNING: {warning}")
    return str(made["Id"])


def with_image(daemon: Client, creation: Creation, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of the daemon, its image fetched as `--pull` says."""
    query = {"name": creation.name or None, "platform": creation.platform or None}

    def fetch() -> None:
        pull_image(daemon, body["Image"], quiet=creation.quiet, platform=creation.platform, say=print_warning)

    if creation.pull == "always":
        fetch()
    try:
        return dict(daemon.post("/containers/create", query, body))
    except ApiError as error:
        if error.status != NOT_FOUND or "image" not in str(error).lower() or creation.pull != "missing":
            raise
    if not creation.quiet:
        print_warning(f"Unable to find image '{body['Image']}' locally")
    fetch()
    return dict(daemon.post("/containers/create", query, body))


@contextmanager
def id_file(path: str) -> Iterator[Callable[[str], object]]:
    """The file for the id, made first, so that nothing is made that it cannot name; gone again on failure."""
    if not path:
        yield str
        return
    try:
        file = Path(path).open("x")  # noqa: SIM115  # closed below
    except FileExistsError:
        raise WrongFlag(f"--cidfile: {path!r} is there; make sure that its container is not, and delete it") from None
    except OSError as error:
        raise WrongFlag(f"--cidfile: {path!r}: {error.strerror}") from error
    try:
        with file:
            yield file.write
    except BaseException:
        Path(path).unlink()
        raise
