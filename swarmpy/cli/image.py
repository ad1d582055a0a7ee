"""`swarmpy image …`, and the words docker has for it: images, pull, load, save, import, rmi, tag.

Source  docker image; Docker Engine API, paths under /images.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from swarmpy.cli.commands import client, each, verb
from swarmpy.cli.declared import Argument, Exit, Noun, Option
from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.output import (
    age,
    confirmed,
    print_inspected,
    print_rows,
    print_text,
    print_warning,
    short_id,
    size_text,
)
from swarmpy.cli.registry_auth import auth_for
from swarmpy.cli.values import filters_json

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

app = Noun()
COMMANDS: dict[str, str] = {}

Images = Annotated[list[str], Argument("IMAGE…")]
Image = Annotated[str, Argument("IMAGE")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Say less")]
Format = Annotated[str, Option("--format", help="json, or a template such as {{.Repository}}")]
Platform = Annotated[str, Option("--platform", help="Of an image for several, OS/ARCHITECTURE[/VARIANT]")]
Untrusting = Annotated[bool, Option("--disable-content-trust", help="As always: signatures are not checked")]
Filter = Annotated[list[str], Option("--filter", "-f", help="reference=…, label=…, dangling=…")]


@verb(app, COMMANDS, "ls", word="images")
def ls(
    repository: Annotated[str, Argument("[REPOSITORY]")] = "",
    everything: Annotated[bool, Option("--all", "-a", help="Also intermediate images")] = False,
    filter_: Filter = [],  # noqa: B006  # the call gets a copy
    format_: Format = "",
    quiet: Quiet = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Do not shorten ids")] = False,
    digests: Annotated[bool, Option("--digests", help="With the digests that registries know")] = False,
    tree: Annotated[bool, Option("--tree", help="With the platforms of each image")] = False,
) -> None:
    """List images."""
    if tree:
        raise WrongFlag("--tree is not supported by this version of swarmpy")
    wanted = [*filter_, *([f"reference={repository}"] if repository else [])]
    rows = []
    for image in client().get("/images/json", {"all": str(everything).lower(), "filters": filters_json(wanted)}):
        known = dict(item.split("@", 1) for item in image.get("RepoDigests") or [])
        for tag in image.get("RepoTags") or ["<none>:<none>"]:
            name, _, version = tag.rpartition(":")
            rows.append(
                {
                    "Repository": name,
                    "Tag": version,
                    "Digest": known.get(name, "<none>"),
                    "ID": image["Id"] if no_trunc else short_id(image["Id"]),
                    "Created": f"{age(image['Created'])} ago",
                    "Size": size_text(image["Size"]),
                }
            )
    columns = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE"]
    print_rows(rows, columns, format_, quiet_field="ID" if quiet else None)


@verb(app, COMMANDS, "pull", word="pull")
def pull(
    image: Image,
    quiet: Quiet = False,
    platform: Platform = "",
    all_tags: Annotated[bool, Option("--all-tags", "-a", help="Every tag of the repository")] = False,
    disable_content_trust: Untrusting = True,
) -> None:
    """Fetch an image from its registry."""
    if not disable_content_trust:
        raise WrongFlag("--disable-content-trust: 'false' is not supported: signatures of images are not checked")
    if all_tags:
        raise WrongFlag("--all-tags is not supported by this version of swarmpy: name the tags one by one")
    pull_image(client(), image, quiet=quiet, platform=platform)
    if quiet:
        print_text(image)


def pull_image(
    daemon: Client, image: str, *, quiet: bool, platform: str = "", say: Callable[[str], None] = print_text
) -> None:
    """Fetch, saying each layer's last state. Raises ValueError with the daemon's text when the pull fails."""
    query = {"fromImage": image, "platform": platform or None}
    follow(daemon.messages("POST", "/images/create", query, auth=auth_for(image)), quiet=quiet, say=say)


def follow(messages: Any, *, quiet: bool, say: Callable[[str], None] = print_text) -> None:
    """Say the messages of a long operation; an error among them is raised as ValueError."""
    said: dict[str, str] = {}
    for message in messages:
        if "error" in message:
            raise ValueError(f"Error response from daemon: {message['error']}")
        id_, status = message.get("id", ""), message.get("status") or message.get("stream", "").rstrip("\n")
        if quiet or not status or said.get(id_) == status:
            continue
        said[id_] = status
        say(f"{id_}: {status}" if id_ else status)


@verb(app, COMMANDS, "load", word="load")
def load(
    source: Annotated[str, Option("--input", "-i", help="A file instead of standard input")] = "",
    quiet: Quiet = False,
    platform: Platform = "",
) -> None:
    """Take in images from an archive."""
    daemon = client()
    query = {"quiet": "true" if quiet else "false", "platform": platform_json(platform)}
    if source:
        with Path(source).open("rb") as archive:
            follow(daemon.messages("POST", "/images/load", query, archive), quiet=quiet)
    else:
        follow(daemon.messages("POST", "/images/load", query, sys.stdin.buffer), quiet=quiet)


@verb(app, COMMANDS, "save", word="save")
def save(
    images: Images,
    output: Annotated[str, Option("--output", "-o", help="A file instead of standard output")] = "",
    platform: Platform = "",
) -> None:
    """Write images to an archive."""
    if not output and sys.stdout.isatty():
        raise ValueError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    target = Path(output).open("wb") if output else sys.stdout.buffer  # noqa: SIM115  # closed below, stdout must stay open
    try:
        chosen = platform_json(platform)
        query = [*(("names", image) for image in images), *([("platform", chosen)] if chosen else [])]
        with client().stream("GET", "/images/get?" + encoded(query)) as response:
            shutil.copyfileobj(response, target)
    finally:
        if output:
            target.close()


def encoded(query: list[tuple[str, str]]) -> str:
    from urllib.parse import urlencode

    return urlencode(query)


@verb(app, COMMANDS, "import", word="import")
def import_(
    source: Annotated[str, Argument("FILE|-")],
    reference: Annotated[str, Argument("[REPOSITORY[:TAG]]")] = "",
    change: Annotated[list[str], Option("--change", "-c", help="Dockerfile instruction to apply")] = [],  # noqa: B006
    message: Annotated[str, Option("--message", "-m", help="Note for the image's history")] = "",
    platform: Platform = "",
) -> None:
    """Make an image from a tar of a root file system."""
    repository, tag = split_tag(reference)
    query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), ("message", message), ("platform", platform)]
    path = "/images/create?" + encoded([*query, *(("changes", item) for item in change)])
    daemon = client()
    if source == "-":
        follow(daemon.messages("POST", path, None, sys.stdin.buffer), quiet=False)
        return
    with Path(source).open("rb") as archive:
        follow(daemon.messages("POST", path, None, archive), quiet=False)


def split_tag(reference: str) -> tuple[str, str]:
    """`localhost:5000/web` has no tag, `web:1` has one."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "")


@verb(app, COMMANDS, "tag", word="tag")
def tag(image: Image, reference: Annotated[str, Argument("NAME[:TAG]")]) -> None:
    """Give an image another name."""
    repository, version = split_tag(reference)
    client().post(f"/images/{image}/tag", {"repo": repository, "tag": version})


@verb(app, COMMANDS, "rm", word="rmi")
def rm(
    images: Images,
    force: Annotated[bool, Option("--force", "-f", help="Even if in use")] = False,
    no_prune: Annotated[bool, Option("--no-prune", help="Keep parents that have no name")] = False,
    platform: Platform = "",
) -> None:
    """Remove images."""
    query = {"force": str(force).lower(), "noprune": str(no_prune).lower(), "platforms": platform_json(platform)}
    daemon = client()

    def remove(image: str) -> list[str]:
        return [f"{kind}: {name}" for item in daemon.delete(f"/images/{image}", query) for kind, name in item.items()]

    each(images, remove, may_be_gone=force)


def platform_json(text: str) -> str | None:
    """`linux/arm/v7`, as the API has it."""
    if not text:
        return None
    names = ("os", "architecture", "variant")
    parts = text.split("/")
    if not 2 <= len(parts) <= len(names) or "" in parts:
        raise WrongFlag(f"--platform: {text!r} is not OS/ARCHITECTURE[/VARIANT]")
    return json.dumps(dict(zip(names, parts, strict=False)))


@verb(app, COMMANDS, "inspect")
def inspect(
    images: Images, format_: Annotated[str, Option("--format", "-f", help="json, or a template")] = ""
) -> None:
    """Show images in full."""
    daemon = client()
    print_inspected(images, lambda image: dict(daemon.get(f"/images/{image}/json")), format_)


@verb(app, COMMANDS, "history")
def history(image: Image) -> None:
    """Show how an image was made."""
    for step in client().get(f"/images/{image}/history"):
        print_text(
            f"{short_id(step['Id']):<14}{age(step['Created'])} ago   {step['CreatedBy']}   {size_text(step['Size'])}"
        )


@verb(app, COMMANDS, "prune")
def prune(force: Annotated[bool, Option("--force", "-f", help="Do not ask")] = False) -> None:
    """Remove images that have no name and no container."""
    if not force and not confirmed("WARNING! This will remove all dangling images. Continue?"):
        raise Exit(1)
    answer = client().post("/images/prune")
    print_text(f"Total reclaimed space: {size_text(answer.get('SpaceReclaimed') or 0)}")
    if not answer.get("ImagesDeleted"):
        print_warning("nothing to remove")
