"""Compressed files: which there are, and their bytes. Any kind of text may have any compression.

A stream that ends early, or goes on with something else, is an error and never a shorter file.
"""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable
from typing import IO, Any

import pyarrow as pa

from engine.core.local_file import opened
from engine.core.types import InputPath
from engine.errors import InputError

COMPRESSIONS = {"gz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}
"""Name of a compression by the end of a file's name, without its dot."""
MAGIC = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\0", "zst": b"\x28\xb5\x2f\xfd"}
"""First bytes of each."""
_BUFFER = 1 << 20


def compression_of(kind: str) -> str:
    """The name of a kind's compression, such as gzip for jsonl.gz; "" where it has none."""
    return COMPRESSIONS.get(kind.rpartition(".")[2], "")


def plain_kind(kind: str) -> str:
    """The kind without its compression: jsonl for jsonl.gz."""
    return kind.rpartition(".")[0] if compression_of(kind) else kind


def open_bytes(path: InputPath, kind: str) -> IO[bytes]:
    """A file's bytes, decompressed as its kind says.

    Raises:
        InputError: It is empty, which no compressed file is.
        OSError: It cannot be opened. While it is read, errors of either kind say what is wrong.
    """
    compression = compression_of(kind)
    if not compression:
        return path.open("rb")
    if not path.stat().st_size:
        raise InputError(f"{path}: empty, which no {compression} file is", "copy or write it again")
    _check_packed(path, kind)
    if compression in _DECODERS:
        return io.BufferedReader(_StreamReader(path, compression), _BUFFER)
    stream: IO[bytes] = pa.input_stream(opened(path), compression=compression, buffer_size=_BUFFER)
    return stream


def _check_packed(path: InputPath, kind: str) -> None:
    """Raise InputError where a file that should be compressed is plain text, or compressed
    otherwise: a download may unpack it on the way."""
    with path.open("rb") as stream:
        head = stream.read(6)
    suffix = kind.rpartition(".")[2]
    if head.startswith(MAGIC[suffix]):
        return
    stem = path.name[: -len(suffix) - 1] if path.name.endswith(f".{suffix}") else path.name
    other = next((one for one, magic in MAGIC.items() if head.startswith(magic)), "")
    if other:
        what, name = COMPRESSIONS[other], f"{stem}.{other}"
    elif head.isascii() and not any(byte < 9 for byte in head):
        what, name = "plain text", stem
    else:
        return
    raise InputError(f"{path}: {what}, not {COMPRESSIONS[suffix]}", f"rename it to {name}")


_DECODERS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}


class _StreamReader(io.RawIOBase):
    """The content of all streams of a .bz2 or .xz file.

    The standard library's readers end without an error where a later stream is damaged, and
    pyarrow's reader of bz2 fails at a stream of nothing.
    """

    def __init__(self, path: InputPath, compression: str) -> None:
        self._path, self._file, self._compression = path, path.open("rb"), compression
        self._decoder = _DECODERS[compression]()
        self._began = False  # whether the decoder has got bytes of a stream

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._read(len(buffer))
        except (lzma.LZMAError, OSError, ValueError) as error:
            raise self._error(str(error)) from error
        buffer[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        while True:
            block = b""
            if self._decoder.eof:
                block = self._decoder.unused_data
                self._decoder, self._began = _DECODERS[self._compression](), False
            if not block and self._decoder.needs_input:
                block = self._file.read(_BUFFER)
                if not block and self._began:
                    raise self._error("it is truncated")
                if not block:
                    return b""
            if not self._began and self._compression == "xz":
                block = block.lstrip(b"\0")  # padding between streams
            self._began = self._began or bool(block)
            content: bytes = self._decoder.decompress(block, size)
            if content:
                return content

    def _error(self, reason: str) -> InputError:
        return InputError(
            f"{self._path}: cannot be read as {self._compression}: {reason}",
            "the file is damaged, truncated or of another kind; copy or write it again",
        )
