"""Corpora of folders: what is read of them, and what is only counted."""

from __future__ import annotations

from corpora import Corpus, lines, link, parquet, pipe, stream, table, texts

ONE, TWO, THREE = texts(1, 2, 3)
OUTPUT = {
    "_manifest/run.json": b"{}",
    "_manifest/rejects/part-00000-x.jsonl": b'{"row": 1}\n',
    "_SUCCESS": b"{}",
    "part-00000-x.jsonl": lines(TWO),
}


def below(folder: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in OUTPUT.items()}


CORPORA = [
    Corpus(
        "unknown endings",
        {
            "a.jsonl": lines(ONE),
            "b.log": b"x",
            "c.LOG": b"x",
            "d.LOG": b"x",
            "README": b"x",
            "d.tar": b"x",
            "e.tar": b"x",
        },
        [ONE],
        notes=["not read in the inputs: 3 .log, 2 .tar, 1 names without an ending"],
    ),
    Corpus(
        "no file of a known ending",
        {"a.log": b"x"},
        error=("InputError", "{folder}: no input files in this folder", "known endings: .parquet"),
    ),
    Corpus(
        "file of an unknown ending by its name",
        {"a.log": b"x"},
        inputs=("a.log",),
        error=("InputError", "a.log: unknown ending", "known endings: .parquet"),
    ),
    Corpus(
        "hidden files and folders",
        {
            "a.jsonl": lines(ONE),
            ".b.jsonl": lines(TWO),
            "_c.jsonl": lines(TWO),
            ".git/d.jsonl": lines(TWO),
            "_x/e.jsonl": lines(TWO),
        },
        [ONE],
    ),
    Corpus(
        "hidden file by its name",
        {".b.jsonl": lines(TWO)},
        [TWO],
        inputs=(".b.jsonl",),
    ),
    Corpus(
        "one name in two folders",
        {"x/a.jsonl": lines(ONE), "y/a.jsonl": lines(TWO)},
        [ONE, TWO],
    ),
    Corpus(
        "one name in two inputs",
        {"x/a.jsonl": lines(ONE), "y/a.jsonl": lines(TWO)},
        [ONE, TWO],
        inputs=("x", "y"),
    ),
    Corpus(
        "a file named twice, and in a folder",
        {"x/a.jsonl": lines(ONE), "b.jsonl": lines(TWO)},
        [TWO, ONE],
        inputs=("x/a.jsonl", "x/../x/a.jsonl", "", "b.jsonl"),
    ),
    Corpus(
        "glob",
        {"a1.jsonl": lines(ONE), "a2.jsonl": lines(TWO), "b.jsonl": lines(THREE)},
        [ONE, TWO],
        inputs=("a*.jsonl",),
    ),
    Corpus(
        "glob over folders",
        {"x/a.jsonl": lines(ONE), "y/z/a.jsonl": lines(TWO)},
        [ONE, TWO],
        inputs=("**/*.jsonl",),
    ),
    Corpus(
        "glob without a match",
        {"a.jsonl": lines(ONE)},
        inputs=("b*.jsonl",),
        error=("InputError", "b*.jsonl: nothing matches", "known endings"),
    ),
    Corpus(
        "missing file",
        {"a.jsonl": lines(ONE)},
        inputs=("b.jsonl",),
        error=("InputError", "b.jsonl: no such file or folder", "{folder} has: a.jsonl"),
    ),
    Corpus(
        "missing file beside one that is there",
        {"a.jsonl": lines(ONE)},
        inputs=("a.jsonl", "b.jsonl"),
        error=("InputError", "b.jsonl: no such file or folder", "{folder} has: a.jsonl"),
    ),
    Corpus(
        "link beside its target",
        {"a.jsonl": lines(ONE), "b.jsonl": link("a.jsonl")},
        [ONE],
    ),
    Corpus(
        "link to a file elsewhere",
        {"in/b.jsonl": link("../a.jsonl"), "a.jsonl": lines(ONE)},
        [ONE],
        inputs=("in",),
    ),
    Corpus(
        "link to nothing",
        {"a.jsonl": lines(ONE), "b.jsonl": link("nowhere.jsonl")},
        [ONE],
        notes=["not read in the inputs: 1 links to nothing"],
    ),
    Corpus(
        "link to a folder",
        {"in/a.jsonl": lines(ONE), "more/b.jsonl": lines(TWO), "in/more": link("../more")},
        [ONE],
        inputs=("in",),
        notes=["not read in the inputs: 1 links to folders"],
    ),
    Corpus(
        "link to its own folder",
        {"in/a.jsonl": lines(ONE), "in/again": link(".")},
        [ONE],
        inputs=("in",),
        notes=["not read in the inputs: 1 links to folders"],
    ),
    Corpus(
        "pipe in a folder",
        {"a.jsonl": lines(ONE), "b.jsonl": pipe},
        [ONE],
        notes=["not read in the inputs: 1 special files"],
    ),
    Corpus(
        "pipe by its name",
        {"b.jsonl": pipe},
        inputs=("b.jsonl",),
        error=("InputError", "b.jsonl: not a regular file", "write its rows to a file first"),
    ),
    Corpus(
        "another run's output in the folder",
        {"a.jsonl": lines(ONE), **below("out")},
        [ONE],
        notes=["not read in the inputs: 1 outputs of other runs"],
    ),
    Corpus("another run's output by its name", below("out"), [TWO], inputs=("out",)),
    Corpus(
        "hive folders",
        {
            "year=2023/a.parquet": parquet(table([ONE])),
            "year=2024/a.parquet": parquet(table([TWO])),
        },
        [ONE | {"year": 2023}, TWO | {"year": 2024}],
    ),
    Corpus(
        "folder with a file's ending",
        {"x.parquet/part-0.parquet": parquet(table([ONE])), "x.parquet/_metadata": b"x"},
        [ONE],
        inputs=("*.parquet",),
    ),
    Corpus(
        "names with spaces, brackets and of another script",
        {"a [1].jsonl": lines(ONE), "día 2.jsonl": lines(TWO)},
        [ONE, TWO],
    ),
    Corpus(
        "an address",
        {"a.jsonl": lines(ONE)},
        inputs=("ftp://bucket/a.jsonl",),
        error=("SettingsError", "ftp:// is no store that is known", "known are s3://"),
    ),
    Corpus(
        "limit of files that are not reached",
        {"a.arrow": stream(table([ONE, TWO])), "b.jsonl": lines(THREE)},
        [ONE],
        settings={"limit": 1},
    ),
]
