"""Files that may be compressed by gzip or zstd, told by their first bytes, and never decompressed without a limit."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2p_dist.errors import user_error

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UNPACKED, _RATIO = 1 << 30, 200
"""A compressed file may come to 1 GiB, or to 200 times its size where that is more."""


@contextmanager
def opened(path: Path) -> Iterator["io.BufferedReader[Any]"]:
    """The bytes of a file, decompressed where its first bytes are those of gzip or zstd. Raises UserError E202."""
    with path.open("rb") as file:
        start = file.peek(4)[:4]
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise user_error("E202", "the text is UTF-16", str(path), "save the file as UTF-8")
        if start[:2] == _GZIP:
            blocks = _gzip_blocks(file)
        elif start == _ZSTD:
            blocks = _zstd_blocks(file)
        else:
            yield file
            return
        limit = max(_UNPACKED, _RATIO * path.stat().st_size)
        with io.BufferedReader(_Bounded(blocks, limit, path)) as unpacked:
            yield unpacked


def _gzip_blocks(file: io.BufferedReader) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(1 << 16):
            yield block


def _zstd_blocks(file: io.BufferedReader) -> Iterator[bytes]:
    """The decompressed bytes of all frames. A kilobyte comes to 32 MB at most. Raises EOFError for a cut-off frame."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame, rest = decompressor.decompressobj(), b""
    while chunk := rest or file.read(1024):
        if frame.eof:
            frame = decompressor.decompressobj()
        yield frame.decompress(chunk)
        rest = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("compressed data ends before its end mark")


class _Bounded(io.RawIOBase):
    """A stream of decompressed blocks that ends in UserError E202 beyond `limit` bytes."""

    def __init__(self, blocks: Iterator[bytes], limit: int, path: Path):
        self.blocks, self.left, self.limit, self.path = blocks, limit, limit, path
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            if (block := next(self.blocks, None)) is None:
                return 0
            self.left -= len(block)
            if self.left < 0:
                what = f"the file comes to more than {self.limit:,} bytes when decompressed"
                raise user_error("E202", what, str(self.path), "decompress it, and name the file that comes out")
            self.rest = memoryview(block)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size
