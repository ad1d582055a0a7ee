"""zstd (RFC 8878): the standard library's `compression.zstd`, and before Python 3.14 its backport, the same one."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress, decompress
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress, decompress

__all__ = ["DecompressionParameter", "ZstdDecompressor", "ZstdError", "compress", "decompress"]
