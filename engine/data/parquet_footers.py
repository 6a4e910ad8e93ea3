"""Footers of Parquet files whose parts contradict each other.

A footer has no checksum, as pages have. pyarrow (26.0.1) ends the process where Python asks for a
column chunk whose statistics do not fit its column: a C++ exception that nobody catches. A reader
that prepares its reads looks at all chunks, too, and there the same fault is an error. So one is
set up before, over no file.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import pyarrow as pa

_NOTHING = "no byte of it is read"
_SIZE = 1 << 62  # no offset is beyond the end


class _NoFile(io.RawIOBase):
    """A huge file of which no byte can be read."""

    _place = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = _SIZE if whence == io.SEEK_END else offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        raise OSError(_NOTHING)


def check_chunks(metadata: Any) -> None:
    """Refuse the metadata of a Parquet file whose column chunks pyarrow could not show.

    Raises:
        OSError: Some chunk is not as its column says.
    """
    import pyarrow.parquet as pq

    groups = range(metadata.num_row_groups)
    file = pa.PythonFile(_NoFile(), mode="r")
    reader = pq.ParquetFile(file, metadata=metadata, pre_buffer=True)
    try:
        next(reader.iter_batches(1, groups, use_threads=False), None)
    except OSError as error:
        if _NOTHING not in str(error):
            raise


def check_types(file: Any) -> None:
    """Refuse a file that reads a column as numbers of another kind than its writer has noted in the
    Arrow schema beside them: a flipped bit makes a whole number of each float.

    Raises:
        OSError: It does.
    """
    noted = (file.metadata.metadata or {}).get(b"ARROW:schema")
    if noted is None:
        return
    written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(noted)))
    for field in file.schema_arrow:
        index = written.get_field_index(field.name)
        before, after = written.field(index).type if index >= 0 else field.type, field.type
        floats = any(map(pa.types.is_floating, (before, after)))
        if floats and before != after and _is_number(before) and _is_number(after):
            raise OSError(f"it was written with a column of {before}, and has one of {after}")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
