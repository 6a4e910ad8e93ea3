"""Corpora of JSON lines."""

from __future__ import annotations

from corpora import FAR, Corpus, damaged, far, flip, gz, half, lines, texts, zst

ONE, TWO = texts(1, 2)
BAD = b'{"text": "w1", "id": 1}\n%s\n{"text": "w2", "id": 2}\n'


def broken(line: bytes, code: str) -> dict[str, object]:
    """A corpus of two good lines and a bad one between them."""
    return {"files": {"a.jsonl": BAD % line}, "rows": [ONE, TWO], "rejects": [("a.jsonl", 1, code)]}


LATE = [
    Corpus("jsonl, plain", {"a.jsonl": lines(ONE, TWO)}, [ONE, TWO], types={"id": "int64"}),
    Corpus("jsonl.gz", {"a.jsonl.gz": gz(lines(ONE, TWO))}, [ONE, TWO]),
    Corpus("jsonl.zst", {"a.jsonl.zst": zst(lines(ONE, TWO))}, [ONE, TWO]),
    Corpus("ndjson", {"a.ndjson": lines(ONE, TWO)}, [ONE, TWO]),
    Corpus("ending in capitals", {"A.JSONL": lines(ONE, TWO)}, [ONE, TWO]),
    Corpus(
        "jsonl.gz of several members",
        {"a.jsonl.gz": gz(lines(ONE)) + gz(lines(TWO))},
        [ONE, TWO],
    ),
    Corpus(
        "jsonl.zst of several frames",
        {"a.jsonl.zst": zst(lines(ONE)) + zst(lines(TWO))},
        [ONE, TWO],
    ),
    Corpus(
        "late key",
        {"a.jsonl": far() + lines({"text": "w2", "id": 2, "url": "u"})},
        [*FAR, {"id": 2, "url": "u"}],
        keep=("id", "url"),
        types={"url": "string"},
    ),
    Corpus(
        "late key, compressed",
        {"a.jsonl.gz": gz(far() + lines({"text": "w2", "id": 2, "url": "u"}))},
        [*FAR, {"id": 2, "url": "u"}],
        keep=("id", "url"),
    ),
    Corpus(
        "late key of a struct",
        {
            "a.jsonl": lines({"text": "w1", "m": {"a": 1}})
            + far()
            + lines({"text": "w2", "m": {"b": "x"}})
        },
        [{"m": {"a": 1, "b": None}}, {"m": None}, {"m": None}, {"m": {"a": None, "b": "x"}}],
        keep=("m",),
        types={"m": "struct<a: int64, b: string>"},
    ),
    Corpus(
        "late key of a struct in a list",
        {
            "a.jsonl": lines({"text": "w1", "m": [{"a": 1}]})
            + far()
            + lines({"text": "w2", "m": [{"b": 2}]})
        },
        [{"m": [{"a": 1, "b": None}]}, {}, {}, {"m": [{"a": None, "b": 2}]}],
        keep=("m",),
    ),
    Corpus(
        "late float among whole numbers",
        {"a.jsonl": far() + lines({"text": "w2", "id": 2.5})},
        [{"id": 0.0}, {"id": 1.0}, {"id": 2.5}],
        keep=("id",),
        types={"id": "double"},
    ),
    Corpus(
        "late value after nulls",
        {"a.jsonl": lines({"text": "w1", "url": None}) + far() + lines({"text": "w2", "url": "u"})},
        [{}, {}, {}, {"url": "u"}],
        keep=("url",),
        types={"url": "string"},
    ),
    Corpus(
        "late key in the second file",
        {"a.jsonl": lines(ONE), "b.jsonl": lines({**TWO, "url": "u"})},
        [{**ONE, "url": None}, {**TWO, "url": "u"}],
    ),
    Corpus(
        "key missing in the last file",
        {"a.jsonl": lines({**ONE, "url": "u"}), "b.jsonl": lines(TWO)},
        [{**ONE, "url": "u"}, TWO],
    ),
    Corpus(
        "no column kept",
        {"a.jsonl": lines(ONE, TWO)},
        [{}, {}],
        keep=(),
        notes=[
            "no input columns were kept; --keep id or --keep all writes them beside the results"
        ],
    ),
    Corpus(
        "late key, kept column of nobody",
        {"a.jsonl": far() + lines({"text": "w2", "url": "u"})},
        keep=("urls",),
        error=(
            "ColumnError",
            "a.jsonl: no column 'urls'",
            "--keep one of: 'text', 'id', 'filler', 'url'",
        ),
    ),
]

FAULTS = [
    Corpus("broken line", **broken(b'{"text": "w9"', "broken_json")),
    Corpus("line that is no JSON", **broken(b"hello", "broken_json")),
    Corpus("two objects on a line", **broken(b'{"text": "w8"} {"text": "w9"}', "broken_json")),
    Corpus("trailing comma", **broken(b'{"text": "w9",}', "broken_json")),
    Corpus("single quotes", **broken(b"{'text': 'w9'}", "broken_json")),
    Corpus(
        "nested beyond the limit",
        **broken(b'{"text": "w9", "id": 9, "m": ' + b"[" * 5000 + b"]" * 5000 + b"}", "too_deep"),
    ),
    Corpus("a lone null", **broken(b"null", "not_object")),
    Corpus("a number as a line", **broken(b"7", "not_object")),
    Corpus("a text as a line", **broken(b'"w9"', "not_object")),
    Corpus("an array as a line", **broken(b'[{"text": "w9"}]', "not_object")),
    Corpus("text that is a number", **broken(b'{"text": 9, "id": 9}', "not_text")),
    Corpus("text that is a list", **broken(b'{"text": ["w9"], "id": 9}', "not_text")),
    Corpus("text that is an object", **broken(b'{"text": {"w9": 1}, "id": 9}', "not_text")),
    Corpus("text that is true", **broken(b'{"text": true, "id": 9}', "not_text")),
    Corpus("text that is null", **broken(b'{"text": null, "id": 9}', "null_text")),
    Corpus("text that is missing", **broken(b'{"id": 9}', "null_text")),
    Corpus("an empty object", **broken(b"{}", "null_text")),
    Corpus("invalid UTF-8", **broken(b'{"text": "w\xff", "id": 9}', "invalid_utf8")),
    Corpus("half a UTF-8 character", **broken(b'{"text": "w\xe4\xbd", "id": 9}', "invalid_utf8")),
    Corpus("Latin-1", **broken('{"text": "caf\xe9"}'.encode("latin-1"), "invalid_utf8")),
    Corpus("half a surrogate pair", **broken(b'{"text": "\\ud800", "id": 9}', "invalid_utf8")),
    Corpus("kept value of another type", **broken(b'{"text": "w9", "id": "nine"}', "kept_type")),
    Corpus("kept value that is true", **broken(b'{"text": "w9", "id": true}', "kept_type")),
    Corpus(
        "kept value that is an object", **broken(b'{"text": "w9", "id": {"a": 1}}', "kept_type")
    ),
    Corpus("control character in a text", **broken(b'{"text": "w\x019", "id": 9}', "broken_json")),
    Corpus(
        "deep nesting that is not kept",
        {"a.jsonl": BAD % (b'{"text": "w9", "id": 9, "m": ' + b"[" * 400 + b"]" * 400 + b"}")},
        [{"id": 1}, {"id": 9}, {"id": 2}],
        keep=("id",),
    ),
    Corpus(
        "bad line where the run stops at the first",
        {"a.jsonl": BAD % b"hello"},
        settings={"on_error": "fail"},
        error=("RowError", "a.jsonl: row 1 (counted from 0): the line is not JSON", ""),
    ),
    Corpus(
        "more bad lines than allowed",
        {"a.jsonl": BAD % b"hello\nhello"},
        settings={"max_rejects": 1},
        error=("TooManyRejects", "2 bad rows, where at most 1 are allowed", "--max-rejects"),
    ),
    Corpus(
        "bad lines only",
        {"a.jsonl": b"hello\n[]\n"},
        rejects=[("a.jsonl", 0, "broken_json"), ("a.jsonl", 1, "not_object")],
    ),
    Corpus(
        "bad first line",
        {"a.jsonl": b"hello\n" + lines(ONE)},
        [ONE],
        rejects=[("a.jsonl", 0, "broken_json")],
    ),
    Corpus(
        "bad last line without a line end",
        {"a.jsonl": lines(ONE) + b'{"text": "w'},
        [ONE],
        rejects=[("a.jsonl", 1, "broken_json")],
    ),
    Corpus(
        "bad lines in two chunks",
        {"a.jsonl": b"hello\n" + far() + b"hello\n" + lines(TWO)},
        [*FAR, {"id": 2}],
        rejects=[("a.jsonl", 0, "broken_json"), ("a.jsonl", 3, "broken_json")],
        keep=("id",),
    ),
]

FORMS = [
    Corpus("byte order mark", {"a.jsonl": b"\xef\xbb\xbf" + lines(ONE, TWO)}, [ONE, TWO]),
    Corpus("CRLF", {"a.jsonl": lines(ONE, TWO, end="\r\n")}, [ONE, TWO]),
    Corpus("no final line end", {"a.jsonl": lines(ONE, TWO)[:-1]}, [ONE, TWO]),
    Corpus(
        "blank lines",
        {"a.jsonl": b"\n" + lines(ONE) + b"\n  \n\t\r\n" + lines(TWO) + b"hello\n\n"},
        [ONE, TWO],
        rejects=[("a.jsonl", 6, "broken_json")],
    ),
    Corpus(
        "blanks around objects",
        {"a.jsonl": b'  {"text" : "w1", "id" : 1 }  \n\t{"text": "w2", "id": 2}\n'},
        [ONE, TWO],
    ),
    Corpus(
        "keys in another order",
        {"a.jsonl": b'{"text": "w1", "id": 1}\n{"id": 2, "text": "w2"}\n'},
        [ONE, TWO],
    ),
    Corpus(
        "texts with line ends and characters of all planes",
        {
            "a.jsonl": lines(
                {"text": "w1\nw2\u2028\u0085", "id": 1}, {"text": "w1 \U0001f600 \x7f", "id": 2}
            )
        },
        [{"text": "w1\nw2\u2028\u0085", "id": 1}, {"text": "w1 \U0001f600 \x7f", "id": 2}],
    ),
    Corpus(
        "escaped surrogate pairs and NUL",
        {"a.jsonl": b'{"text": "w1 \\ud83d\\ude00", "id": 1}\n{"text": "w2\\u0000", "id": 2}\n'},
        [{"text": "w1 \U0001f600", "id": 1}, {"text": "w2\x00", "id": 2}],
    ),
    Corpus("empty texts", {"a.jsonl": lines({"text": "", "id": 1})}, [{"text": "", "id": 1}]),
    Corpus(
        "empty file",
        {"a.jsonl": b"", "b.jsonl": lines(ONE)},
        [ONE],
        notes=["no rows in 1 of the inputs, such as {folder}/a.jsonl"],
    ),
    Corpus(
        "file of blank lines",
        {"a.jsonl": b"\n\n \n", "b.jsonl": lines(ONE)},
        [ONE],
        notes=["no rows in 1 of the inputs, such as {folder}/a.jsonl"],
    ),
    Corpus(
        "empty file alone",
        {"a.jsonl": b""},
        notes=["no rows in 1 of the inputs, such as {folder}/a.jsonl"],
    ),
    Corpus(
        "empty compressed file",
        {"a.jsonl.gz": b"", "b.jsonl": lines(ONE)},
        error=("InputError", "a.jsonl.gz: empty, which no gzip file is", "copy or write it again"),
    ),
    Corpus(
        "compressed nothing",
        {"a.jsonl.gz": gz(b""), "b.jsonl": lines(ONE)},
        [ONE],
        notes=["no rows in 1 of the inputs, such as {folder}/a.jsonl.gz"],
    ),
    Corpus(
        "truncated gzip",
        {"a.jsonl.gz": damaged(gz(far()), half)},
        error=("InputError", "a.jsonl.gz: cannot be read as jsonl.gz", "truncated"),
    ),
    Corpus(
        "gzip without its last bytes",
        {"a.jsonl.gz": gz(lines(ONE, TWO))[:-4]},
        error=("InputError", "a.jsonl.gz: cannot be read as jsonl.gz", "truncated"),
    ),
    Corpus(
        "truncated zstd",
        {"a.jsonl.zst": damaged(zst(far()), half)},
        error=("InputError", "a.jsonl.zst: cannot be read as jsonl.zst", "truncated"),
    ),
    Corpus(
        "gzip with a flipped bit",
        {"a.jsonl.gz": damaged(gz(lines(ONE, TWO)), flip(gz(lines(ONE, TWO))[-8:-4]))},
        error=("InputError", "a.jsonl.gz: cannot be read as jsonl.gz", "damaged"),
    ),
    Corpus(
        "several splits",
        {"a.jsonl": lines(*texts(*range(40)))},
        texts(*range(40)),
        settings={"split_size": 200},
    ),
    Corpus(
        "several splits with a key in the last one only",
        {"a.jsonl": lines(*texts(*range(40)), {**TWO, "url": "u"})},
        [*texts(*range(40)), {**TWO, "url": "u"}],
        settings={"split_size": 200},
    ),
    Corpus(
        "several splits and bad rows in each",
        {"a.jsonl": b"".join(lines(one) + b"hello\n" for one in texts(*range(20)))},
        texts(*range(20)),
        rejects=[("a.jsonl", row, "broken_json") for row in range(1, 40, 2)],
        settings={"split_size": 100},
    ),
    Corpus(
        "limit in the middle of a file",
        {"a.jsonl": lines(*texts(0, 1, 2)) + b"hello\n" + lines(*texts(4, 5))},
        texts(0, 1, 2, 4),
        rejects=[("a.jsonl", 3, "broken_json")],
        settings={"limit": 5},
    ),
    Corpus(
        "limit over files",
        {
            "a.jsonl": lines(*texts(0, 1)),
            "b.jsonl": lines(*texts(2, 3)),
            "c.jsonl": lines(*texts(4)),
        },
        texts(0, 1, 2),
        settings={"limit": 3},
    ),
]

NUMBERS = [
    Corpus(
        "uint64",
        {"a.jsonl": lines({"text": "w1", "id": 2**63}, {"text": "w2", "id": 2**64 - 1})},
        [{"text": "w1", "id": 2**63}, {"text": "w2", "id": 2**64 - 1}],
        types={"id": "uint64"},
    ),
    Corpus(
        "uint64 among small ones",
        {"a.jsonl": lines(ONE, {"text": "w2", "id": 2**63})},
        [ONE, {"text": "w2", "id": 2**63}],
        types={"id": "uint64"},
    ),
    Corpus(
        "uint64 in the second file",
        {"a.jsonl": lines(ONE), "b.jsonl": lines({"text": "w2", "id": 2**63 + 1})},
        [ONE, {"text": "w2", "id": 2**63 + 1}],
        types={"id": "uint64"},
    ),
    Corpus(
        "largest and least whole numbers",
        {"a.jsonl": lines({"text": "w1", "id": 2**63 - 1}, {"text": "w2", "id": -(2**63)})},
        [{"text": "w1", "id": 2**63 - 1}, {"text": "w2", "id": -(2**63)}],
        types={"id": "int64"},
    ),
    Corpus(
        "whole numbers of 17 digits",
        {"a.jsonl": lines({"text": "w1", "id": 2**53 + 1}, {"text": "w2", "id": 10**17 + 3})},
        [{"text": "w1", "id": 2**53 + 1}, {"text": "w2", "id": 10**17 + 3}],
        types={"id": "int64"},
    ),
    Corpus(
        "whole number among floats that a float does not hold",
        {"a.jsonl": lines({"text": "w1", "id": 1.5}, {"text": "w2", "id": 2**53 + 1})},
        [{"text": "w1", "id": 1.5}],
        rejects=[("a.jsonl", 1, "kept_type")],
        types={"id": "double"},
    ),
    Corpus(
        "whole number of another file's floats",
        {
            "a.jsonl": lines({"text": "w1", "id": 1.5}),
            "b.jsonl": lines({"text": "w2", "id": 2**53 + 1}, TWO),
        },
        [{"text": "w1", "id": 1.5}, {"text": "w2", "id": 2.0}],
        rejects=[("b.jsonl", 0, "kept_type")],
        types={"id": "double"},
    ),
    Corpus(
        "floats of every size",
        {
            "a.jsonl": b'{"text": "w1", "x": 1e308}\n{"text": "w2", "x": 5e-324}\n'
            b'{"text": "w3", "x": -0.0}\n'
            b'{"text": "w4", "x": 0.1}\n{"text": "w5", "x": 1.7976931348623157e308}\n'
        },
        [
            {"text": "w1", "x": 1e308},
            {"text": "w2", "x": 5e-324},
            {"text": "w3", "x": -0.0},
            {"text": "w4", "x": 0.1},
            {"text": "w5", "x": 1.7976931348623157e308},
        ],
    ),
    Corpus(
        "whole and other numbers",
        {"a.jsonl": lines(ONE, {"text": "w2", "id": 2.5})},
        [{"text": "w1", "id": 1.0}, {"text": "w2", "id": 2.5}],
        types={"id": "double"},
    ),
    Corpus(
        "digits in texts",
        {"a.jsonl": lines({"text": "w1", "id": "12345678901234567890123"})},
        [{"text": "w1", "id": "12345678901234567890123"}],
        types={"id": "string"},
    ),
    Corpus(
        "texts that look like dates",
        {
            "a.jsonl": lines(
                {"text": "w1", "day": "2024-01-31"}, {"text": "w2", "day": "2024-01-31T10:00:00Z"}
            )
        },
        [{"text": "w1", "day": "2024-01-31"}, {"text": "w2", "day": "2024-01-31T10:00:00Z"}],
        types={"day": "string"},
    ),
]

SHAPES = [
    Corpus(
        "booleans, lists, structs",
        {
            "a.jsonl": lines(
                {"text": "w1", "b": True, "l": [1, None, 2], "m": {"x": {"y": ["z"]}}},
                {"text": "w2", "b": False, "l": [], "m": {}},
            )
        },
        [
            {"text": "w1", "b": True, "l": [1, None, 2], "m": {"x": {"y": ["z"]}}},
            {"text": "w2", "b": False, "l": [], "m": {"x": None}},
        ],
        types={"l": "list<item: int64>"},
    ),
    Corpus(
        "empty lists before others",
        {"a.jsonl": lines({"text": "w1", "l": []}, {"text": "w2", "l": ["x"]})},
        [{"text": "w1", "l": []}, {"text": "w2", "l": ["x"]}],
        types={"l": "list<item: string>"},
    ),
    Corpus(
        "a key of nulls only",
        {"a.jsonl": lines({"text": "w1", "n": None})},
        [{"text": "w1", "n": None}],
        types={"n": "string"},
    ),
    Corpus(
        "names with commas, dots and spaces",
        {"a.jsonl": lines({"text": "w1", "a,b": 1, "a.b": 2, "a b": 3, "": 4, "é": 5})},
        [{"text": "w1", "a,b": 1, "a.b": 2, "a b": 3, "": 4, "é": 5}],
    ),
    Corpus(
        "lists as texts where the task takes text",
        {"a.jsonl": lines({"text": ["w1", "w2"], "id": 1})},
        rejects=[("a.jsonl", 0, "not_text")],
    ),
]

CORPORA = [*LATE, *FAULTS, *FORMS, *NUMBERS, *SHAPES]
