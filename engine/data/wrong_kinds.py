"""Files that are not what their names say: what they seem to be, and what helps."""

from __future__ import annotations

from pathlib import Path

from engine.core.types import CorpusFile, InputPath
from engine.data.compression import compression_of, plain_kind
from engine.data.json_values import parse_line
from engine.data.standard_input import is_spooled
from engine.errors import InputError

_HEAD = 1 << 16
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    # first bytes, what it is, and its ending; "+" where that stands behind the other ending
    (b"PAR1", "Parquet", ".parquet"),
    (b"ARROW1", "Arrow", ".arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream", ".arrow"),
    (b"\x1f\x8b", "gzip", "+.gz"),
    (b"BZh", "bz2", "+.bz2"),
    (b"\xfd7zXZ\0", "xz", "+.xz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "+.zst"),
    (b"PK\x03\x04", "a zip archive", ""),
    (b"Obj\x01", "Avro", ""),
    (b"ORC", "ORC", ""),
    (b"%PDF", "PDF", ""),
    (b"SQLite format 3", "an SQLite database", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x89HDF", "HDF5", ""),
    (b"7z\xbc\xaf", "a 7z archive", ""),
)
_CONVERT = "unpack it, or convert it to Parquet or JSON lines, and name that"
_NAMES = {"jsonl": "JSON lines", "txt": "plain text", "csv": "CSV", "tsv": "TSV"}


def check_kind(file: CorpusFile, head: bytes) -> None:
    """Raise InputError where a file of text begins as one of another kind."""
    kind = plain_kind(file.kind)
    what, hint = _foreign(file.path, head, is_packed=bool(compression_of(file.kind)))
    if not what and kind == "jsonl" and head.lstrip()[:1] == b"<":
        what = "HTML or XML"
        hint = "a download may have got a page in place of the file: get the file, or convert it"
    if not what and kind in ("csv", "tsv") and _is_json(head):
        what, hint = "JSON", _rename(file.path, ".jsonl")
    if what:
        raise InputError(f"{file.path}: {what}, not {_NAMES.get(kind, kind)}", hint)


def _is_json(head: bytes) -> bool:
    """Whether the first line is an object, or the bracket of one or of an array."""
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].strip()
    return first in (b"{", b"[") or isinstance(parse_line(first), dict)


def advice(path: InputPath, kind: str) -> str:
    """What helps with a file that cannot be read as its kind; "" where it does not seem to be of
    another one."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return ""
    what, hint = _foreign(path, head, is_packed=False)
    if what:
        return f"it is {what}: {hint}" if not _is(kind, what) else ""
    if not head:
        return "it is empty: leave it out, or write it again"
    if b"\0" in head:
        return ""
    ending, name = _seeming(head)
    return f"it seems to be {name}: {_rename(path, ending)}"


def advice_on_lines(path: InputPath, head: bytes) -> str:
    """What helps with a file called JSON lines, of the first lines of which none is an object; ""
    where one is."""
    lines = [line.strip() for line in head.split(b"\n")[:64] if line.strip()]
    values = [parse_line(line) for line in lines]
    if any(isinstance(value, dict) for value in values):
        return ""
    objects = 'each line must hold an object, such as {"text": "..."}'
    if lines and all(value is not None for value in values):
        return f"no line of its beginning is an object; {objects}: write the file again"
    if all(line.endswith(b",") and isinstance(parse_line(line[:-1]), dict) for line in lines):
        return "its lines end in commas: take them away, or put the lines into one array"
    if all(line.startswith(b"{'") for line in lines):
        return "its lines seem to be Python's dictionaries: write them with json.dumps"
    if any(line.startswith(b"{") for line in lines):
        return f"no line of its beginning is JSON; {objects}: write the file again"
    ending, name = _seeming(head)
    return f"it seems to be {name}: {_rename(path, ending)}"


def _seeming(head: bytes) -> tuple[str, str]:
    """The ending and the name of the kind of text that a file seems to be."""
    lines = [line for line in head.split(b"\n")[:20] if line.strip()]
    if lines and lines[0].lstrip().startswith((b"{", b"[")):
        return ".jsonl", "JSON"
    for delimiter, ending in ((b"\t", ".tsv"), (b",", ".csv"), (b";", ".csv")):
        counts = {line.count(delimiter) for line in lines[:-1] or lines}
        if len(lines) > 1 and min(counts) and len(counts) <= 2:
            return ending, ending[1:].upper()
    return ".txt", "plain text, a row for each line"


def _foreign(path: InputPath, head: bytes, *, is_packed: bool) -> tuple[str, str]:
    """What a file is by its first bytes, and what helps; "" for text."""
    for magic, what, ending in _MAGIC:
        if head.startswith(magic):
            if is_packed:
                return f"{what} within a compressed file", "decompress it first"
            return what, _rename(path, ending) if ending else _CONVERT
    encoding = _encoding(head)
    if encoding:
        hint = f"write it as UTF-8: iconv -f {encoding} -t UTF-8"
        if isinstance(path, Path):
            target = path.with_name(f"utf8-{path.name}")
            hint = f"iconv -f {encoding} -t UTF-8 {path} > {target}, and name that"
        if is_spooled(path):
            hint = f"pipe it through iconv -f {encoding} -t UTF-8"
        return f"text in {encoding}", "decompress it and write it as UTF-8" if is_packed else hint
    return "", ""


def _encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 in iconv's words, told by its mark or by zeros; else ""."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    sample = head[:512]
    half = len(sample) // 2
    if half > 1 and sample[1::2].count(0) > 0.8 * half and not sample[::2].count(0):
        return "UTF-16LE"
    if half > 1 and sample[::2].count(0) > 0.8 * half and not sample[1::2].count(0):
        return "UTF-16BE"
    return ""


def _rename(path: InputPath, ending: str) -> str:
    name = (
        path.name + ending[1:] if ending.startswith("+") else f"{path.name.split('.')[0]}{ending}"
    )
    formats = {".parquet", ".arrow", ".jsonl", ".csv", ".tsv", ".txt"}
    if is_spooled(path):
        return f"say --input-format {ending[1:]}" if ending in formats else _CONVERT
    option = f", or name it with --input-format {ending[1:]}" if ending in formats else ""
    return f"rename it to {name}{option}"


def _is(kind: str, what: str) -> bool:
    """Whether what a file is by its first bytes is its kind, so that it is only damaged."""
    return (kind == "parquet" and what == "Parquet") or (kind == "arrow" and "Arrow" in what)
