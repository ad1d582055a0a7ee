"""The keys that end an attachment and leave the process alone: ctrl-p ctrl-q, or what the client asks for. Pure.

Source  Docker Engine API, `detachKeys` of `POST /containers/{id}/attach`: characters, or `ctrl-` with one of a-z @ [ ]
        ^ _ or a backslash, separated by commas. They count only where there is a terminal.
"""

from __future__ import annotations

from swarmpy.errors import InvalidArgument

__all__ = ["DetachKeys", "parse_detach_keys"]

_DEFAULT = b"\x10\x11"
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # the code of ctrl-x is the place of x in here


def parse_detach_keys(text: str) -> bytes:
    """The bytes that a terminal sends for `text`; the default for an empty one. InvalidArgument quotes `text`."""
    if not text:
        return _DEFAULT
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif len(key) == 6 and key.startswith("ctrl-") and key[5] in _CONTROL:
            keys.append(_CONTROL.index(key[5]))
        else:
            raise InvalidArgument(f"Invalid escape keys ({text}) provided: write characters and ctrl-a to ctrl-z")
    return bytes(keys)


class DetachKeys:
    """Looks for the keys in input that comes in pieces, and holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.pressed = False

    def feed(self, data: bytes) -> bytes:
        """What of the input is for the process. Once `pressed`, nothing is."""
        if not self._held and self._keys[0] not in data:
            return data
        out = bytearray()
        for byte in data:
            self._held += bytes((byte,))
            while not self._keys.startswith(self._held):
                out.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self.pressed = True
                break
        return bytes(out)
