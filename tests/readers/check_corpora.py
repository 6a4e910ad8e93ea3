"""Compare what runs left with what other tools read: python tests/readers/check_corpora.py FOLDER.

FOLDER is what `write_corpora.py` wrote. Nothing of the engine is imported: the inputs are read by
the standard library, pandas, DuckDB, Polars and pyarrow, each as far as it can. For every input
file the rows that are answered and those that are rejected must be the tool's rows, in their order
and with their values; every file of a folder must be read or counted in a note; a refused corpus
must have left no part. Prints a line for each corpus; the exit code is 1 where something differs.
"""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]
LINES = (".jsonl", ".ndjson")
RESULTS = ("translation_text", "generated_text", "output_tokens", "finish_reason")
OPENERS: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda content: pa.CompressedInputStream(io.BytesIO(content), "zstd").read(),
}

# Where a tool reads something else than the file has. (tool, corpus): why the tool is not followed.
KNOWN: Mapping[tuple[str, str], str] = {
    ("DuckDB", "names with commas, dots and spaces"): "takes no key without a name",
    ("DuckDB", "parquet: dates, times, decimals, bytes"): "takes a duration for a whole number",
}


def check(folder: Path) -> tuple[list[str], int, int]:
    """Differences of one corpus, values compared, and comparisons by tools."""
    run = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    if "error" in run:
        left = [path.name for path in (folder / "out").rglob("part-*")]
        return [f"refused, but left {left}"] if left else [], 0, 0
    differences, values, tools = list(unread(folder, run)), 0, 0
    for file in dict.fromkeys(part["input"] for part in run["parts"]):
        parts = [part["part"] for part in run["parts"] if part["input"] == file]
        answered = [row for part in parts for row in read_part(folder / "out" / part)]
        rejected = {r["row"]: r for r in run["rejects"] if r["file"] == file}
        for tool, read in readers(Path(file), set(rejected)):
            try:
                rows = read()
            except Exception as error:  # what a tool cannot read is no difference
                if tool in ("json", "pyarrow"):
                    differences.append(f"{tool} cannot read {file}: {error}"[:200])
                continue
            if (tool, run["name"]) in KNOWN:
                continue
            tools += 1
            rows = [{**hive_keys(Path(file)), **row} for row in rows]
            found = list(compare(tool, rows, answered, rejected, run["settings"]))
            differences += found
            values += sum(len(row) for row in answered)
    return differences, values, tools


def unread(folder: Path, run: Mapping[str, Any]) -> Iterator[str]:
    """Files of the corpus that were neither read nor counted, where the whole folder was named."""
    if list(run["inputs"]) != [""] or run["settings"].get("limit"):
        return
    parts = {os.path.realpath(part["input"]) for part in run["parts"]}
    others = 0
    for parent, folders, files in os.walk(folder / "in"):
        outputs = [f for f in folders if (Path(parent) / f / "_manifest/run.json").exists()]
        others += len(outputs)
        folders[:] = [f for f in folders if f[0] not in "._" and f not in outputs]
        for name in files:
            path = os.path.realpath(Path(parent) / name)
            others += name[0] not in "._" and path not in parts
    notes = " ".join(n for n in run["notes"] if n.startswith("not read in the inputs"))
    counted = sum(int(word) for word in notes.replace(":", " ").split() if word.isdigit())
    if counted != others:
        yield f"{others} files are not read, {counted} are counted in the notes"


def hive_keys(file: Path) -> dict[str, Any]:
    """Keys of the folders called key=value, which a tool that is given one file does not see."""
    pairs = (folder.split("=", 1) for folder in file.parent.parts if "=" in folder)
    return {key: int(value) if value.isdigit() else value for key, value in pairs}


def read_part(part: Path) -> Rows:
    """The rows of a part, without the results."""
    table = pa.ipc.open_file(str(part)).read_all()
    names = [name for name in table.column_names if name not in RESULTS]
    return table.select(names).to_pylist() if names else [{} for _ in range(table.num_rows)]


def readers(file: Path, rejected: set[int]) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """Names of tools, and functions that read all rows with them, a bad one as {"": None}."""
    if any(ending in file.name.lower() for ending in LINES):
        content = plain_bytes(file)
        yield "json", lambda: by_json(content)
        lines = content.split(b"\n")
        good = [line for n, line in enumerate(lines) if n not in rejected and line.strip()]
        for tool, read in LINE_TOOLS.items():
            if good:
                yield tool, lambda read=read: spread(read(good), lines, rejected)
        return
    tools = PARQUET_TOOLS if file.suffix in (".parquet", ".pq") else ARROW_TOOLS
    for tool, read_file in tools.items():
        yield tool, lambda read_file=read_file: read_file(str(file))


def plain_bytes(file: Path) -> bytes:
    content = file.read_bytes()
    if opener := OPENERS.get(file.suffix):
        content = opener(content)
    return content.removeprefix(b"\xef\xbb\xbf")


def by_json(content: bytes) -> Rows:
    """The lines by the standard library; {"": None} for a bad one, and nothing for a blank one."""
    rows: Rows = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line.decode()) if line.strip() else None
            row = value if isinstance(value, dict) else {"": None}
        except ValueError:
            row = {"": None}
        except RecursionError:
            row = {"?": None}
        rows.append({"\n": None} if not line.strip() else row)
    return rows


def spread(rows: Rows, lines: Sequence[bytes], rejected: set[int]) -> Rows:
    """Rows of the good lines, at the numbers of these."""
    left = iter(rows)
    spaced: Rows = []
    for number, line in enumerate(lines):
        if not line.strip():
            spaced.append({"\n": None})
        else:
            spaced.append({"": None} if number in rejected else next(left, {"missing": 1}))
    return spaced


def with_file(lines: Sequence[bytes], read: Callable[[str], Rows]) -> Rows:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(lines) + b"\n")
        file.flush()
        return read(file.name)


def pandas_lines(lines: Sequence[bytes]) -> Rows:
    text = io.StringIO(b"\n".join(lines).decode())
    frame = pandas.read_json(text, lines=True, dtype=False, precise_float=True, orient="records")
    # It has no null in a column of objects.
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def duckdb_lines(path: str) -> Rows:
    size = "maximum_object_size=100000000, sample_size=-1, format='newline_delimited'"
    return sql(f"select * from read_json('{path}', {size})")


def sql(query: str) -> Rows:
    with duckdb.connect(config={"preserve_insertion_order": True}) as connection:
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def arrow_table(path: str) -> pa.Table:
    with open(path, "rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()


def by_arrow(table: pa.Table) -> Rows:
    """The rows, with {"": None} where a text is not UTF-8."""
    rows = []
    for n in range(table.num_rows):
        try:
            rows.append(table.slice(n, 1).to_pylist()[0])
        except UnicodeDecodeError:
            rows.append({"": None})
    return rows


def polars_ipc(path: str) -> Rows:
    with open(path, "rb") as file:
        is_file = file.read(6) == b"ARROW1"
    read = polars.read_ipc if is_file else polars.read_ipc_stream
    return read(path).to_dicts()


LINE_TOOLS: Mapping[str, Callable[[Sequence[bytes]], Rows]] = {
    "pandas": pandas_lines,
    "DuckDB": lambda lines: with_file(lines, duckdb_lines),
    "Polars": lambda lines: polars.read_ndjson(
        io.BytesIO(b"\n".join(lines)), infer_schema_length=None
    ).to_dicts(),
}
PARQUET_TOOLS: Mapping[str, Callable[[str], Rows]] = {
    "pyarrow": lambda path: by_arrow(pq.ParquetFile(path).read()),
    "pandas": lambda path: pandas.read_parquet(path, dtype_backend="pyarrow").to_dict("records"),
    "DuckDB": lambda path: sql(f"select * from read_parquet('{path}', hive_partitioning=false)"),
    "Polars": lambda path: polars.read_parquet(path, hive_partitioning=False).to_dicts(),
}
ARROW_TOOLS: Mapping[str, Callable[[str], Rows]] = {
    "pyarrow": lambda path: by_arrow(arrow_table(path)),
    "pandas": lambda path: pandas.read_feather(path, dtype_backend="pyarrow").to_dict("records"),
    "Polars": polars_ipc,
}


def compare(
    tool: str, rows: Rows, answered: Rows, rejected: Mapping[int, Any], settings: Mapping[str, Any]
) -> Iterator[str]:
    """How the rows of a tool differ from those answered and rejected."""
    left, every = iter(answered), list(settings["keep"]) == ["all"]
    for number, row in enumerate(rows):
        if "\n" in row or ("?" in row and number in rejected):
            continue
        if number in rejected:
            if tool in ("json", "pyarrow") and not is_bad(row, rejected[number]["code"]):
                yield f"{tool}: row {number} is good, but rejected: {rejected[number]['code']}"
            continue
        answer = next(left, None)
        if answer is None:
            if not settings.get("limit"):
                yield f"{tool}: row {number} is neither answered nor rejected"
            return
        for name in answer if "?" not in row else ():
            if not alike(answer[name], row.get(name)):
                yield f"{tool}: row {number}, {name}: {answer[name]!r}, not {row.get(name)!r}"[:300]
        present = [name for name in row if row[name] is not None]
        if every and (unkept := [name for name in present if name not in answer]):
            yield f"{tool}: row {number}: {unkept} were not kept"
    if more := len(list(left)):
        yield f"{tool}: {more} rows more are answered than it reads"


def is_bad(row: Mapping[str, Any], code: str) -> bool:
    """Whether a row by the standard library can have been rejected for this."""
    text = row.get("text")
    match code:
        case "broken_json" | "not_object":
            return "" in row
        case "invalid_utf8":
            return "" in row or any("\ud800" <= c <= "\udfff" for c in repr(row) + str(text))
        case "null_text":
            return text is None
        case "not_text":
            return not isinstance(text, str)
    return True


def alike(one: Any, other: Any) -> bool:
    return same(plain(one), plain(other))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        names = {*one, *other}
        return all(same(one.get(name), other.get(name)) for name in names)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    # An absent object is one without fields, and a map is a list of pairs to some.
    alike = {} in (one, other) and not (one or other)
    return bool(one == other) or alike


def plain(value: Any) -> Any:
    """A value in Python's types: pairs of maps as an object, times in UTC, absent ones as None."""
    if value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, pandas.Timestamp):
        value = value.to_pydatetime(warn=False)
    if hasattr(value, "to_list") or hasattr(value, "tolist"):
        value = value.to_list() if hasattr(value, "to_list") else value.tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        pairs = [_pair(one) for one in value]
        if value and all(pairs):
            return {str(pair[0]): plain(pair[1]) for pair in pairs if pair}
        return [plain(one) for one in value]
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


def _pair(value: Any) -> tuple[Any, Any] | None:
    """Key and value, if it is an entry of a map."""
    if isinstance(value, dict) and set(value) == {"key", "value"}:
        return value["key"], value["value"]
    return value if isinstance(value, tuple) and len(value) == 2 else None


def main() -> None:
    failures = compared = 0
    folders = sorted(p.parent for p in Path(sys.argv[1]).glob("*/corpus.json"))
    for folder in folders:
        name = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["name"]
        differences, values, tools = check(folder)
        failures += bool(differences)
        compared += values
        verdict = "differs" if differences else "same"
        print(f"{name[:58]:58} {tools:3} readings {values:5} values  {verdict}")
        for difference in differences[:4]:
            print(f"    {difference}")
    print(f"{len(folders)} corpora, {compared} values compared, {failures} corpora differ")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
