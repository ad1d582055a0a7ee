"""libnftables, asked in JSON: one call is one transaction of the kernel.

Owns    the library handle; a context belongs to the thread that made it and to that thread's network namespace.
Source  libnftables(3), libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any

from swarmpy.errors import Internal, Unavailable

__all__ = ["Command", "Nftables"]

Command = dict[str, Any]

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h: input is then read as JSON too


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Unavailable(f"{_LIBRARY} cannot be loaded ({error}); install package libnftables1") from error
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Nftables:
    """One libnftables context. Use it from one thread only."""

    def __init__(self) -> None:
        self._library = _load()
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise Internal("libnftables gave no context (nft_ctx_new); is the process allowed to use nf_tables?")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)

    def run(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        """Carry out all of `commands` or none; returns what they list. Internal, in nftables' own words, on refusal."""
        if not commands:
            return []
        request = json.dumps({"nftables": list(commands)}).encode()
        status = self._library.nft_run_cmd_from_buffer(self._context, request)
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            raise Internal(f"nftables refused a change set of {len(commands)} commands: {complaint.decode().strip()}")
        listed: list[dict[str, Any]] = json.loads(output)["nftables"] if output.strip() else []
        return listed

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None
