"""Corpora of Parquet and Arrow files."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
from corpora import Corpus, arrow, damaged, flip, half, lines, parquet, stream, table, texts

ONE, TWO, THREE = texts(1, 2, 3)
FLAT = table([ONE, TWO])
NOISE = table([{"text": f"w{n}", "noise": f"{n * 7919 % 10007:05d}"} for n in range(200)])
INVALID = pa.table(
    {
        "text": pa.array([b"w1", b"\xff\xfe", b"w2"]).view(pa.string()),
        "id": [1, 9, 2],
    }
)
KEPT_INVALID = pa.table(
    {"text": ["w1", "w2"], "name": pa.array([b"\xff", b"ok"]).view(pa.string())}
)
NULLS = table([ONE, {"text": None, "id": 9}, TWO])

TYPED_ROWS = [
    {
        "text": "w1",
        "when": datetime.datetime(2024, 1, 31, 10, 0, 0, 123456),
        "zoned": datetime.datetime(2024, 1, 31, 10, tzinfo=datetime.UTC),
        "day": datetime.date(2024, 2, 29),
        "hour": datetime.time(23, 59, 59, 999999),
        "price": decimal.Decimal("12345678901234567890.123"),
        "raw": b"\x00\xff",
        "small": 200,
        "half": 0.5,
        "yes": True,
        "long": datetime.timedelta(seconds=1, microseconds=5),
    },
    {"text": "w2"},
]
TYPES = {
    "when": pa.timestamp("us"),
    "zoned": pa.timestamp("us", "UTC"),
    "day": pa.date32(),
    "hour": pa.time64("us"),
    "price": pa.decimal128(38, 3),
    "raw": pa.binary(),
    "small": pa.uint8(),
    "half": pa.float32(),
    "yes": pa.bool_(),
    "long": pa.duration("us"),
}
NESTED_ROWS = [
    {"text": "w1", "l": [1, None], "s": {"a": 1, "b": ["x"]}, "f": [1.0, 2.0], "m": [("k", 1)]},
    {"text": "w2", "l": [], "s": {"a": None, "b": None}, "f": [3.0, 4.0], "m": []},
    {"text": "w3", "l": None, "s": None, "f": None, "m": None},
]
NESTED = table(
    NESTED_ROWS,
    l=pa.list_(pa.int32()),
    s=pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
    f=pa.list_(pa.float32(), 2),
    m=pa.map_(pa.string(), pa.int64()),
)


def as_type(kind: pa.DataType) -> pa.Table:
    return pa.table({"text": FLAT["text"].cast(kind), "id": FLAT["id"]})


TWICE = pa.table([["w1"], [1], [2]], names=["text", "id", "id"])

KINDS = [
    Corpus("parquet", {"a.parquet": parquet(FLAT)}, [ONE, TWO], types={"id": "int64"}),
    Corpus("pq", {"a.pq": parquet(FLAT)}, [ONE, TWO]),
    Corpus("arrow file", {"a.arrow": arrow(FLAT)}, [ONE, TWO]),
    Corpus("arrow stream", {"a.arrow": stream(FLAT)}, [ONE, TWO]),
    Corpus(
        "ipc and feather",
        {"a.ipc": arrow(FLAT), "b.feather": arrow(table([THREE]))},
        [ONE, TWO, THREE],
    ),
    Corpus("arrow file, lz4", {"a.arrow": arrow(FLAT, compression="lz4")}, [ONE, TWO]),
    Corpus("arrow stream, zstd", {"a.arrow": stream(FLAT, compression="zstd")}, [ONE, TWO]),
    *(
        Corpus(f"parquet, {codec}", {"a.parquet": parquet(FLAT, compression=codec)}, [ONE, TWO])
        for codec in ("gzip", "zstd", "brotli", "lz4", "none")
    ),
    Corpus(
        "parquet, data pages of version 2, delta encoded",
        {
            "a.parquet": parquet(
                FLAT,
                data_page_version="2.0",
                use_dictionary=False,
                column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
            )
        },
        [ONE, TWO],
    ),
    Corpus(
        "parquet in row groups",
        {"a.parquet": parquet(table(texts(*range(50))), row_group_size=7)},
        texts(*range(50)),
        settings={"split_size": 500},
    ),
    Corpus(
        "parquet in row groups, null texts, limit",
        {
            "a.parquet": parquet(
                table([*texts(*range(9)), {"text": None}, *texts(10, 11)]), row_group_size=4
            )
        },
        [*texts(*range(9)), *texts(10)],
        rejects=[("a.parquet", 9, "null_text")],
        settings={"split_size": 1, "limit": 11},
    ),
    Corpus(
        "arrow in many batches, an empty one among them",
        {
            "a.arrow": arrow(
                pa.concat_tables([table([ONE]), FLAT.slice(0, 0), table([TWO])]), rows=1
            )
        },
        [ONE, TWO],
    ),
]

TYPED = [
    *(
        Corpus(
            f"{kind}: dates, times, decimals, bytes",
            {f"a.{kind}": write(table(TYPED_ROWS, **TYPES))},
            TYPED_ROWS,
            types={name: str(of) for name, of in TYPES.items()},
        )
        for kind, write in (("parquet", parquet), ("arrow", arrow))
    ),
    *(
        Corpus(f"{kind}: lists, structs, maps", {f"a.{kind}": write(NESTED)}, NESTED_ROWS)
        for kind, write in (("parquet", parquet), ("arrow", arrow))
    ),
    *(
        Corpus(f"arrow: text as {kind}", {"a.arrow": arrow(as_type(kind))}, [ONE, TWO])
        for kind in (
            pa.large_string(),
            pa.string_view(),
            pa.dictionary(pa.int8(), pa.string()),
            pa.dictionary(pa.int32(), pa.large_string()),
        )
    ),
    Corpus(
        "parquet: text as dictionary",
        {"a.parquet": parquet(as_type(pa.dictionary(pa.int32(), pa.string())), row_group_size=1)},
        [ONE, TWO],
    ),
    Corpus(
        "arrow: text as a dictionary with nulls",
        {
            "a.arrow": arrow(
                pa.table({"text": NULLS["text"].dictionary_encode(), "id": NULLS["id"]})
            )
        },
        [ONE, TWO],
        rejects=[("a.arrow", 1, "null_text")],
    ),
    Corpus(
        "arrow: a kept dictionary",
        {
            "a.arrow": arrow(
                pa.table(
                    {
                        "text": ["w1", "w2", "w3"],
                        "c": pa.array(["x", None, "x"]).dictionary_encode(),
                    }
                )
            )
        },
        [{"text": "w1", "c": "x"}, {"text": "w2"}, {"text": "w3", "c": "x"}],
        types={"c": "string"},
    ),
    Corpus(
        "arrow: kept views",
        {
            "a.arrow": arrow(
                pa.table(
                    {
                        "text": ["w1"],
                        "s": pa.array(["x" * 40], pa.string_view()),
                        "b": pa.array([b"y"], pa.binary_view()),
                    }
                )
            )
        },
        [{"text": "w1", "s": "x" * 40, "b": b"y"}],
    ),
    Corpus(
        "parquet: floats that are no numbers",
        {
            "a.parquet": parquet(
                table(
                    [
                        {"text": "w1", "x": float("nan")},
                        {"text": "w2", "x": float("-inf")},
                        {"text": "w3"},
                    ]
                )
            )
        },
        [{"text": "w1", "x": float("nan")}, {"text": "w2", "x": float("-inf")}, {"text": "w3"}],
    ),
    Corpus(
        "parquet: nanoseconds",
        {
            "a.parquet": parquet(
                table([{"text": "w1", "t": 1700000000123456789}], t=pa.timestamp("ns"))
            )
        },
        [{"text": "w1", "t": 1700000000123456789}],
        types={"t": "timestamp[ns]"},
    ),
    Corpus(
        "text column of whole numbers",
        {"a.parquet": parquet(pa.table({"text": [1, 2]}))},
        error=(
            "ColumnError",
            "a.parquet: column 'text' holds int64, not text",
            "cast 'text' first",
        ),
    ),
    Corpus(
        "text column of nulls alone",
        {"a.parquet": parquet(pa.table({"text": pa.nulls(2), "id": [1, 2]}))},
        rejects=[("a.parquet", 0, "null_text"), ("a.parquet", 1, "null_text")],
    ),
]

FAULTS = [
    *(
        Corpus(
            f"{name}: null texts",
            {f"a.{ending}": write(NULLS)},
            [ONE, TWO],
            rejects=[(f"a.{ending}", 1, "null_text")],
        )
        for name, ending, write in (
            ("parquet", "parquet", parquet),
            ("arrow file", "arrow", arrow),
            ("arrow stream", "arrow", stream),
        )
    ),
    *(
        Corpus(
            f"{ending}: invalid UTF-8",
            {f"a.{ending}": write(INVALID)},
            [ONE, TWO],
            rejects=[(f"a.{ending}", 1, "invalid_utf8")],
        )
        for ending, write in (("parquet", parquet), ("arrow", arrow))
    ),
    Corpus(
        "parquet: invalid UTF-8 in a kept column",
        {"a.parquet": parquet(KEPT_INVALID)},
        [{"text": "w2", "name": "ok"}],
        rejects=[("a.parquet", 0, "invalid_utf8")],
    ),
    Corpus(
        "parquet: null texts where the run stops at the first",
        {"a.parquet": parquet(NULLS)},
        settings={"on_error": "fail"},
        error=("RowError", "a.parquet: row 1 (counted from 0): the text is null or missing", ""),
    ),
    Corpus(
        "parquet without rows",
        {"a.parquet": parquet(FLAT.slice(0, 0)), "b.parquet": parquet(FLAT)},
        [ONE, TWO],
        notes=["no rows in 1 of the inputs, such as {folder}/a.parquet"],
    ),
    Corpus(
        "arrow without rows",
        {
            "a.arrow": arrow(FLAT.slice(0, 0)),
            "b.arrow": stream(FLAT.slice(0, 0)),
            "c.arrow": arrow(FLAT),
        },
        [ONE, TWO],
        notes=["no rows in 2 of the inputs, such as {folder}/a.arrow"],
    ),
    *(
        Corpus(
            f"{ending} of no bytes",
            {f"a.{ending}": b"", "b.parquet": parquet(FLAT)},
            error=("InputError", f"a.{ending}: cannot be read as {ending}", "it is empty"),
        )
        for ending in ("parquet", "arrow")
    ),
    *(
        Corpus(
            f"{name}, truncated",
            {f"a.{ending}": damaged(write(NOISE), half), "b.parquet": parquet(FLAT)},
            error=("InputError", f"a.{ending}: cannot be read as {ending}", "damaged, truncated"),
        )
        for name, ending, write in (
            ("parquet", "parquet", parquet),
            ("arrow file", "arrow", arrow),
            ("arrow stream", "arrow", stream),
        )
    ),
    Corpus(
        "parquet with a flipped bit and page checksums",
        {
            "a.parquet": damaged(
                parquet(NOISE, compression="none", write_page_checksum=True, use_dictionary=False),
                flip(b"07919"),
            )
        },
        error=("InputError", "a.parquet: cannot be read as parquet", "damaged"),
    ),
    Corpus(
        "parquet without its last bytes",
        {"a.parquet": damaged(parquet(FLAT), lambda whole: whole[:-4])},
        error=("InputError", "a.parquet: cannot be read as parquet", "damaged"),
    ),
    Corpus(
        "jsonl that is parquet",
        {"a.jsonl": parquet(FLAT)},
        error=("InputError", "a.jsonl: Parquet, not JSON lines", "rename it to a.parquet"),
    ),
    Corpus(
        "parquet that is jsonl",
        {"a.parquet": lines(ONE)},
        error=("InputError", "a.parquet: cannot be read as parquet", "rename it to a.jsonl"),
    ),
    *(
        Corpus(
            f"{ending}: two columns of one name",
            {f"a.{ending}": write(TWICE)},
            error=("InputError", f"a.{ending}: two columns are called 'id'", "different names"),
        )
        for ending, write in (("parquet", parquet), ("arrow", arrow))
    ),
]

SHARDS = [
    Corpus(
        "column missing in the last shard",
        {"a.parquet": parquet(table([{**ONE, "url": "u"}])), "b.parquet": parquet(table([TWO]))},
        [{**ONE, "url": "u"}, TWO],
    ),
    Corpus(
        "text column missing in the last shard",
        {"a.parquet": parquet(FLAT), "b.parquet": parquet(pa.table({"body": ["w3"], "id": [3]}))},
        error=("ColumnError", "b.parquet: no column 'text'", "--text one of: 'body', 'id'"),
    ),
    Corpus(
        "kept column that no shard has",
        {"a.parquet": parquet(FLAT)},
        keep=("urls",),
        error=("ColumnError", "a.parquet: no column 'urls'", "--keep one of: 'text', 'id'"),
    ),
    Corpus(
        "shard of nulls",
        {
            "a.parquet": parquet(FLAT),
            "b.parquet": parquet(pa.table({"text": ["w3"], "id": pa.nulls(1)})),
        },
        [ONE, TWO, {"text": "w3", "id": None}],
        types={"id": "int64"},
    ),
    Corpus(
        "int32, int64 and double",
        {
            "a.parquet": parquet(table([ONE], id=pa.int32())),
            "b.parquet": parquet(table([TWO])),
            "c.parquet": parquet(table([{"text": "w3", "id": 3.5}])),
        },
        [{"text": "w1", "id": 1.0}, {"text": "w2", "id": 2.0}, {"text": "w3", "id": 3.5}],
        types={"id": "double"},
    ),
    Corpus(
        "whole numbers and text",
        {"a.parquet": parquet(FLAT), "b.parquet": parquet(table([{"text": "w3", "id": "three"}]))},
        error=(
            "ColumnError",
            "b.parquet: column 'id' holds string, and int64 in {folder}/a.parquet",
            "leave 'id' out of --keep",
        ),
    ),
    Corpus(
        "jsonl: whole numbers in one file and text in the next",
        {"a.jsonl": lines(ONE), "b.jsonl": lines({"text": "w3", "id": "three"})},
        error=(
            "ColumnError",
            "b.jsonl: column 'id' holds string, and int64 in {folder}/a.jsonl",
            "leave 'id' out of --keep",
        ),
    ),
    Corpus(
        "uint64 beside negative numbers",
        {
            "a.parquet": parquet(table([{"text": "w1", "id": 2**63}], id=pa.uint64())),
            "b.parquet": parquet(table([{"text": "w2", "id": -1}, TWO])),
        },
        [{"text": "w1", "id": 2**63}, TWO],
        rejects=[("b.parquet", 0, "kept_type")],
        types={"id": "uint64"},
    ),
    Corpus(
        "seconds and nanoseconds",
        {
            "a.parquet": parquet(table([{"text": "w1", "t": 1}], t=pa.timestamp("ms"))),
            "b.parquet": parquet(table([{"text": "w2", "t": 5}], t=pa.timestamp("ns"))),
        },
        [{"text": "w1", "t": 1000000}, {"text": "w2", "t": 5}],
        types={"t": "timestamp[ns]"},
    ),
    Corpus(
        "kinds of files beside each other",
        {
            "a.jsonl": lines(ONE),
            "b.parquet": parquet(table([TWO])),
            "c.arrow": stream(table([THREE])),
        },
        [ONE, TWO, THREE],
        types={"id": "int64"},
    ),
    Corpus(
        "text, large text and dictionaries",
        {
            "a.arrow": arrow(pa.table({"text": ["w1"], "c": ["x"]})),
            "b.arrow": arrow(pa.table({"text": ["w2"], "c": pa.array(["y"], pa.large_string())})),
            "c.arrow": arrow(pa.table({"text": ["w3"], "c": pa.array(["z"]).dictionary_encode()})),
        },
        [{"text": "w1", "c": "x"}, {"text": "w2", "c": "y"}, {"text": "w3", "c": "z"}],
    ),
]

CORPORA = [*KINDS, *TYPED, *FAULTS, *SHARDS]
