"""References: how people name images, and the one full name behind each.

Owns    the grammar, the defaults (`docker.io`, `library/`, `latest`) and the short form that is shown to users.
Source  OCI distribution-spec "Pulling manifests" for name and tag; Docker's rules for what may be left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from swarmpy.errors import InvalidArgument
from swarmpy.image.digest import DIGEST, Digest

__all__ = ["DEFAULT_DOMAIN", "Reference", "parse_reference"]

DEFAULT_DOMAIN = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image name. At least one of `tag` and `digest` is set once `parse_reference` has seen it."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Domain and path: the repository, without tag or digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as users write it: `busybox` for `docker.io/library/busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        head, _, rest = self.path.partition("/")
        return rest if head == DEFAULT_NAMESPACE and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """The shortest text that means this reference."""
        return f"{self.familiar_name}{self._suffix}"

    @property
    def selector(self) -> str:
        """What a registry is asked for under `/v2/<path>/manifests/`: the digest where there is one."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository at exactly `digest`."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        return f"{self.name}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """The full reference that `text` means: `busybox` is `docker.io/library/busybox:latest`.

    The first component is a registry when it holds a dot or a colon, is `localhost`, or has a capital letter. A text
    with a digest and no tag gets no tag. Raises InvalidArgument with the part that is wrong.
    """
    if _HEX_ID.fullmatch(text):
        raise InvalidArgument(f"invalid reference {text!r}: 64 hex digits are an image id; choose another name")
    remainder, at, digest_text = text.partition("@")
    if at and not DIGEST.fullmatch(digest_text):
        raise InvalidArgument(f"invalid reference {text!r}: {digest_text!r} after @ is not a sha256 or sha512 digest")
    digest = Digest(digest_text) if at else None
    remainder, tag = _split_tag(text, remainder)
    domain, path = _split_domain(remainder)
    _check_name(text, domain, path)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest)


def _split_tag(text: str, remainder: str) -> tuple[str, str | None]:
    slash = remainder.rfind("/")
    colon = remainder.rfind(":")
    if colon <= slash:
        return remainder, None
    tag = remainder[colon + 1 :]
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(
            f"invalid reference {text!r}: tag {tag!r} must be 1 to 128 of letters, digits, _ . - "
            "and not begin with . or -"
        )
    return remainder[:colon], tag


def _split_domain(remainder: str) -> tuple[str, str]:
    head, slash, rest = remainder.partition("/")
    if slash and (any(c in ".:[" for c in head) or head == "localhost" or head != head.lower()):
        domain, path = head, rest
    else:
        domain, path = DEFAULT_DOMAIN, remainder
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{DEFAULT_NAMESPACE}/{path}"
    return domain, path


def _check_name(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise InvalidArgument(f"invalid reference {text!r}: {domain!r} is not a registry host or host:port")
    for component in path.split("/"):
        if component == "" or component == f"{DEFAULT_NAMESPACE}/":
            raise InvalidArgument(f"invalid reference {text!r}: the repository name has an empty part")
        if component != component.lower():
            raise InvalidArgument(f"invalid reference {text!r}: the repository name must be lower case")
        if not _COMPONENT.fullmatch(component):
            raise InvalidArgument(
                f"invalid reference {text!r}: {component!r} must be lower-case letters and digits, "
                "separated by one . or _, by __ or by dashes"
            )
    if len(domain) + 1 + len(path) > NAME_LIMIT:
        raise InvalidArgument(f"invalid reference {text!r}: the repository name is longer than {NAME_LIMIT} characters")
