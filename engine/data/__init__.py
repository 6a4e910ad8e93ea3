"""Paths to splits to rows, and answers to files: everything that reads and writes a corpus.

`discover` resolves what the person named, `settle` the columns that a run takes of it, and
`split_files` cuts it into splits; `content_hash` hashes a split's bytes, `read` yields its rows in
windows, `read_first` those of the first rows of many files. `FileWriter` writes a part. Only the
columns that are needed are read.
"""

from engine.data.columnar import reading
from engine.data.discovery import discover, find_files
from engine.data.json_text import json_lines
from engine.data.kinds import kind_of
from engine.data.object_files import is_stored
from engine.data.object_listings import find_input
from engine.data.origins import value_of
from engine.data.parts import (
    STREAM,
    Writer,
    batches,
    columns,
    count_rows,
    dataset,
    format_of,
    part_writer,
    schema_of,
    schema_of_text,
    schema_text,
)
from engine.data.schema_cache import PASSES, SchemaCache
from engine.data.settlement import long_numbers, settle
from engine.data.splits import CUT, content_hash, estimate_rows, identities, split_files
from engine.data.standard_input import DASH
from engine.data.stored_folder import (
    KeyChangedError,
    StoredFile,
    StoredFolder,
    Version,
    placeholder,
)
from engine.data.stores import is_url, shown
from engine.data.tables import table_file, table_split, tables_of, to_table
from engine.data.windows import REASONS, first_error, read, read_first
from engine.data.writers import (
    REJECTS,
    REJECTS_SCHEMA,
    FileWriter,
    HashingFile,
    OutputFile,
    check_local,
    copy_rejects,
    make_folder,
    part_name,
    read_rejects,
    rejects_columns,
    rejects_name,
    rejects_writer,
    whole_file,
    write_text,
    writing,
)  # fmt: skip

__all__ = [
    "CUT",
    "DASH",
    "PASSES",
    "REASONS",
    "REJECTS",
    "REJECTS_SCHEMA",
    "STREAM",
    "FileWriter",
    "HashingFile",
    "KeyChangedError",
    "OutputFile",
    "SchemaCache",
    "StoredFile",
    "StoredFolder",
    "Version",
    "Writer",
    "batches",
    "check_local",
    "columns",
    "content_hash",
    "copy_rejects",
    "count_rows",
    "dataset",
    "discover",
    "estimate_rows",
    "find_files",
    "find_input",
    "first_error",
    "format_of",
    "identities",
    "is_stored",
    "is_url",
    "json_lines",
    "kind_of",
    "long_numbers",
    "make_folder",
    "part_name",
    "part_writer",
    "placeholder",
    "read",
    "read_first",
    "read_rejects",
    "reading",
    "rejects_columns",
    "rejects_name",
    "rejects_writer",
    "schema_of",
    "schema_of_text",
    "schema_text",
    "settle",
    "shown",
    "split_files",
    "table_file",
    "table_split",
    "tables_of",
    "to_table",
    "value_of",
    "whole_file",
    "write_text",
    "writing",
]  # fmt: skip
