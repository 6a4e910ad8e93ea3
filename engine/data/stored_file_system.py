"""The keys of a stored folder as a file system of pyarrow, to read and no more."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from engine.data.stored_folder import StoredFile, StoredFolder
from engine.errors import OutputError


class RangeFile(io.RawIOBase):
    """A key as a file: each read is a request for a range of it.

    Args:
        folder: Where it is.
        name: Its path there.
        size: In bytes.
    """

    def __init__(self, folder: StoredFolder, name: str, size: int) -> None:
        super().__init__()
        self._folder, self._name, self._size = folder, name, size
        self._place = 0

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._place)
        length = left if size is None or size < 0 else min(size, left)
        content = self._folder.range(self._name, self._place, length) if length else b""
        self._place += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = starts[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _Handler(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """What a dataset asks of a file system, and refusals of all else."""

    def __init__(self, folder: StoredFolder, sizes: Mapping[str, int]) -> None:
        self._folder, self._sizes = folder, sizes

    def get_type_name(self) -> str:
        return "engine-store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        kinds = (pafs.FileType.NotFound, pafs.FileType.File)
        sizes = self._sizes
        return [pafs.FileInfo(p, type=kinds[p in sizes], size=sizes.get(p)) for p in paths]

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(RangeFile(self._folder, path, self._sizes[path]), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _refuse(self, *arguments: Any, **named: Any) -> Any:
        raise OutputError(f"{self._folder.url}: is only read", "write with engine run")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
    delete_root_dir_contents = delete_file = move = copy_file = _refuse
    open_output_stream = open_append_stream = _refuse


def file_system(folder: StoredFolder, files: Mapping[str, StoredFile]) -> pafs.FileSystem:
    """A file system with the keys of a listing."""
    sizes = {name: file.size for name, file in files.items()}
    return pafs.PyFileSystem(_Handler(folder, sizes))
