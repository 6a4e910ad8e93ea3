"""Command lines as nobody means them: a folder of things gone wrong, and lines made from a seed."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from support.commands import call

from engine.cli import commands
from engine.demo import BUNDLE

SECRET = "zq7secretzq7"
"""Is in every row: no message may have it."""

HEAVY = ("export", "quantize", "demo", "tune", "bench")
"""Take seconds where nothing is wrong, so that something always is."""

NUMBERS = (
    "nan", "inf", "-inf", "1e400", "-1", "-0", "0", "1", "2", "0.5", "0.002k", "1.5GB", "1_0",
    "0x10",
    "٣", "²", "9" * 19, "9" * 5000, "1e3", "1,5", "", " ", "+7", "-9223372036854775809",
    "4294967296",
    "True", "None", "ten", "--", "1 2", "1.5.5", "1kk", "½",
)  # fmt: skip
TEXTS = (
    "", " ", ",", "\\", "a,,b", "text", "txt", "id", "all", "none", "no\nsuch", "\x1b[31m",
    "é" * 300,
    "\udcff", "-", "--", "=", "a=b", "=b", "a=", "%s{}", "[bold]", "../..", "/", "*", "[",
    "~nobody/x",
    "\u202e", "x" * 5000, "NaN", "null", "1/0", "3/2", "0/0", "true",
    "https://user:pw@host/a?sig=1",
    "hdfs://a/b", "s3://", "gs:///x", "file:///etc", "az://", "{", "$HOME", "con", "a\tb",
)  # fmt: skip
CONFIGS = {
    "good.toml": b"limit = 2\nkeep = ['id']\n",
    "unknown.toml": b"limt = 2\n",
    "types.toml": b"limit = [1, 2]\nkeep = 3\ndedupe = 'perhaps'\nworkers = 2026-01-01\n",
    "nested.toml": b"[limit]\na = 1\n",
    "floats.toml": b"limit = nan\nworkers = inf\ntop_p = 1e400\n",
    "nul.toml": b'model = "a\\u0000b"\ninputs = ["c\\u0000d"]\nout = "e\\u0000f"\n',
    "keys.toml": b'"" = 1\n"a b" = 2\n"--limit" = 3\n',
    "flags.toml": b"json = 1\nquiet = 'no'\nrejects-ok = []\ndry-run = true\n",
    "config.toml": b"config = 'good.toml'\n",
    "empty.toml": b"",
    "broken.toml": b"limit = = 2",
    "binary.toml": bytes(range(256)),
    "utf16.toml": "limit = 2\n".encode("utf-16"),
    "deep.toml": b"limit = " + b"[" * 3000 + b"]" * 3000,
    "huge.toml": b"limit = " + b"9" * 5000,
    "dates.toml": b"out = 2026-01-01T00:00:00Z\ntext = 07:30:00\nmodel = true\ninputs = [[1]]\n",
    "list.toml": b"out = ['a', 'b']\nmodel = []\ninputs = []\nsplit-size = -1\nshare = '9/3'\n",
}
VARIABLES = (
    "LIMIT", "WORKERS", "DEDUPE", "JSON", "TOP_K", "CONFIG", "OUT", "KEEP", "SPLIT_SIZE", "DEVICE",
    "NUM_BEAMS", "FORMAT", "QUIET", "MODEL", "INPUTS", "LOG_FORMAT", "HELP", "HELP_ALL", "OPTIONS",
)  # fmt: skip
NAMES = tuple(typer.main.get_command(commands.app).list_commands(None))  # type: ignore[arg-type]  # it needs none
RUNS = ("run", "out.jsonl", "no-manifest", "broken-record", "no-parts", "cut-part", "junk-manifest")


@dataclass
class World:
    """What the lines name.

    Attributes:
        folder: Everything lies below it.
        bundles, rows, runs, configs: Paths, the first of each as it should be.
    """

    folder: Path
    bundles: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)

    def any_path(self, luck: random.Random) -> str:
        pool = luck.choice((self.bundles, self.rows, self.runs, self.configs, self._odd()))
        return luck.choice(pool)

    def _odd(self) -> list[str]:
        names = (
            "nothing", "nothing/at/all", "", ".", "loop", "dangling", "x" * 300, "a/" * 3000,
            "*.none",
            "rows.jsonl/below", "rows.jsonl/", os.fsdecode(b"\xff\xfe"), "new\nline", "-rows.jsonl",
            "**/*", "[", "~", "empty-folder", "out-{}", "\udcff\x1b[1m",
        )  # fmt: skip
        return [f"{self.folder}/{name}" for name in names] + ["", "-", "/dev/null", "/", "relative"]


def make_world(folder: Path) -> World:
    """Build the folder: bundles, rows, outputs and settings, most of them damaged."""
    world = World(folder)
    (folder / "empty-folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    world.rows = [str(folder / name) for name in _write_rows(folder)]
    world.bundles = [str(BUNDLE), *map(str, _write_bundles(folder / "bundles"))]
    for name, content in CONFIGS.items():
        (folder / name).write_bytes(content)
    world.configs = [str(folder / name) for name in CONFIGS]
    _write_runs(folder)
    world.runs = [str(folder / name) for name in RUNS]
    return world


def _write_rows(folder: Path) -> list[str]:
    table = pa.table(
        {"text": ["uno", "dos", SECRET], "id": [1, 2, 3], "x": [float("nan"), 1.0, 2.0]}
    )
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist())
    pq.write_table(table, folder / "rows.parquet")
    with (
        pa.OSFile(str(folder / "rows.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as w,
    ):
        w.write_table(table)
    parquet, arrow = (folder / "rows.parquet").read_bytes(), (folder / "rows.arrow").read_bytes()
    secret = SECRET.encode()
    files = {
        "rows.jsonl": lines,
        "rows.csv": b"text,id\nuno,1\n" + secret + b",2\n",
        "rows.jsonl.gz": gzip.compress(lines),
        "rows.txt": b"uno\n" + secret + b"\n",
        "empty.jsonl": b"",
        "empty.parquet": b"",
        "empty.arrow": b"",
        "empty.csv": b"",
        "cut.parquet": parquet[: len(parquet) // 2],
        "footer.parquet": parquet[:-20] + bytes(12) + parquet[-8:],
        "cut.arrow": arrow[: len(arrow) // 2],
        "cut.jsonl.gz": gzip.compress(lines * 99)[:-9],
        "junk.parquet": bytes(range(256)) * 4,
        "junk.arrow": b"ARROW1\0\0" + bytes(range(256)),
        "junk.jsonl": bytes(range(256)) * 4,
        "junk.csv": b'"' + secret + b"\n,,,\n\xff",
        "junk.jsonl.gz": b"\x1f\x8b\x08" + secret,
        "junk.jsonl.zst": b"\x28\xb5\x2f\xfd" + secret,
        "open.jsonl": b'{"text": "' + secret,
        "types.jsonl": b'{"text": 7}\n{"text": ["' + secret + b'"]}\n{"text": null}\n7\n',
        "text.jsonl": b'"' + secret + b'"\n',
        "nan.jsonl": b'{"text": NaN, "' + secret + b'": Infinity}\n',
        "deep.jsonl": b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
        "surrogate.jsonl": b'{"text": "\\ud800' + secret + b'"}\n',
        "rows.unknown": lines,
        "rows": lines,
        ".hidden.jsonl": lines,
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name in ("folder.jsonl", "folder.parquet"):
        (folder / name).mkdir()
    (folder / "sealed.jsonl").write_bytes(lines)
    (folder / "sealed.jsonl").chmod(0)
    odd = os.fsdecode(os.fsencode(folder) + b"/odd\xff\n.jsonl")
    Path(odd).write_bytes(lines)
    return [
        *files,
        "rows.parquet",
        "rows.arrow",
        "folder.jsonl",
        "folder.parquet",
        "sealed.jsonl",
        odd,
    ]


def _write_bundles(folder: Path) -> Iterator[Path]:
    """Damaged copies of the embedded bundle."""

    def damaged(name: str, damage: Callable[[Path], object]) -> Path:
        shutil.copytree(BUNDLE, folder / name)
        damage(folder / name)
        return folder / name

    def described(**changes: Any) -> Callable[[Path], object]:
        def damage(bundle: Path) -> None:
            file = bundle / "bundle.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

        return damage

    def replaced(name: str, content: bytes) -> Callable[[Path], object]:
        return lambda bundle: (bundle / name).write_bytes(content)

    yield damaged("no-graph", lambda b: (b / "encoder.onnx").unlink())
    yield damaged("no-description", lambda b: (b / "bundle.json").unlink())
    yield damaged("no-tokenizer", lambda b: (b / "tokenizer.json").unlink())
    yield damaged("cut-weights", lambda b: os.truncate(b / "weights.bin", 100))
    for name, content in {
        "junk": b"\xff\x00", "null": b"null", "list": b"[]", "empty": b"", "deep": b"[" * 9000,
        "nan": b'{"format": NaN}', "number": b"9" * 5000, "text": b'"' + SECRET.encode() + b'"',
    }.items():  # fmt: skip
        yield damaged(f"json-{name}", replaced("bundle.json", content))
    yield damaged("tokenizer-junk", replaced("tokenizer.json", b"{" + SECRET.encode()))
    yield damaged("graph-junk", replaced("step.onnx", bytes(999)))
    for number, changes in enumerate((
        {"task": "nothing"}, {"task": 3}, {"recipe": None}, {"graphs": {}}, {"graphs": [1]},
        {"format": 10**400}, {"files": None}, {"tuned": []}, {"notes": {"a": 1}}, {"gate": 7},
    )):  # fmt: skip
        yield damaged(f"field-{number}", described(**changes))

    def folder_for_file(bundle: Path) -> None:
        (bundle / "bundle.json").unlink()
        (bundle / "bundle.json").mkdir()

    yield damaged("folder-for-file", folder_for_file)
    yield damaged("tuned-junk", replaced("tuned.json", b"[" + bytes(9)))
    yield damaged("extra", replaced("more.py", b"print()"))


def _write_runs(folder: Path) -> None:
    """A run's output, and damaged copies of it."""
    rows = folder / "rows.jsonl"
    for name in ("run", "out.jsonl"):
        done = call("run", BUNDLE, rows, "-o", folder / name, "--keep", "id")
        assert done.returncode == 0, done.stderr
    for name in RUNS[2:]:
        shutil.copytree(folder / "run", folder / name)
    shutil.rmtree(folder / "no-manifest/_manifest")
    for file in (folder / "broken-record/_manifest").glob("part-*.json"):
        file.write_text("{")
    for part in (folder / "no-parts").glob("part-*"):
        part.unlink()
    for part in (folder / "cut-part").glob("part-*"):
        os.truncate(part, 40)
    for number, file in enumerate(sorted((folder / "junk-manifest/_manifest").iterdir())):
        if file.is_file():
            file.write_bytes((b"\xff" * 40, b"null", b'{"a": ' + b"[" * 9000, b"")[number % 4])
    (folder / "junk-manifest/_SUCCESS").write_bytes(b"[]")


@dataclass(frozen=True)
class Line:
    """A command line and what of the environment it reads."""

    words: list[str]
    environment: dict[str, str]


FAULTS = ("paths", "paths", "value", "value", "configuration", "environment", "all")


def line(seed: int, world: World) -> Line:
    """The command line of a seed: one thing is wrong with most, everything with some."""
    luck = random.Random(seed)
    name = "run" if luck.random() < 0.35 else luck.choice(NAMES)
    fault = luck.choice(FAULTS if name == "run" else (*FAULTS[:4], "all"))
    words = _plausible(name, luck, world, seed, fault)
    if fault == "all":
        for _ in range(luck.randrange(3)):
            words += _option(name, luck, world)
        words = _shaken(words, luck, world)
        name = luck.choice((name, name, name, name[:-1], name.upper(), "", "-", name + "x"))
    elif fault == "value":
        words += _option(name, luck, world, valued=True)
    elif fault == "configuration":
        words = [*(words if luck.random() < 0.6 else words[:1]), "-c", luck.choice(world.configs)]
    environment = {}
    if fault == "environment":
        value = luck.choice((*NUMBERS, *TEXTS, world.any_path(luck)))
        environment["ENGINE_" + luck.choice(VARIABLES)] = value
    return Line([name, *words] if luck.random() < 0.99 else words, environment)


def _plausible(name: str, luck: random.Random, world: World, seed: int, fault: str) -> list[str]:
    """Positional arguments and required options."""

    def one(paths: list[str]) -> str:
        if fault not in ("paths", "all") or luck.random() < 0.5:
            return paths[0]
        return luck.choice(paths) if luck.random() < 0.6 else world.any_path(luck)

    new = str(world.folder / f"out-{seed}")
    out = one([new, *world.runs, *world.rows, f"{new}.csv", f"{new}.jsonl", "-"])
    bundle, rows, run = one(world.bundles), one(world.rows), one(world.runs)
    damaged = luck.choice((world.any_path(luck), *world.bundles[1:]))
    return {
        "run": [bundle, rows, "-o", out],
        "rerun": [run],
        "export": [luck.choice((bundle, world.any_path(luck))), "-o", out],
        "quantize": [damaged, "-o", out],
        "bench": [damaged, rows],
        "tune": [damaged, rows],
        "demo": ["-o", luck.choice((rows, damaged)), "--rows", luck.choice(NUMBERS)],
        "compare": [run, one(world.runs)],
        "convert": [run, "--to", luck.choice(("csv", "parquet", "orc")), "-o", out],
        "tasks": luck.choice(([], ["ner"], ["trnslation"], [luck.choice(TEXTS)])),
        "doctor": [],
    }.get(name, [luck.choice((run, bundle, rows))])


def _option(name: str, luck: random.Random, world: World, *, valued: bool = False) -> list[str]:
    """An option of the command with a value of any kind; valued: one that takes it."""
    command = commands.load(name)
    context = command.make_context(name, [], resilient_parsing=True)
    parameters = [p for p in command.get_params(context) if p.param_type_name == "option"]
    if valued:
        parameters = [p for p in parameters if not p.is_flag] or parameters
    parameter = luck.choice(parameters)
    option = luck.choice([*parameter.opts, *parameter.secondary_opts])
    value = luck.choice((luck.choice(NUMBERS), luck.choice(TEXTS), world.any_path(luck)))
    if valued:
        return [option] if parameter.is_flag else [option, value]
    if luck.random() < 0.2:
        option = luck.choice((option[:-1], option + "x", "--no-" + option.lstrip("-"), "-Z", "---"))
    return luck.choice(([option, value], [f"{option}={value}"], [option]))


def _shaken(words: list[str], luck: random.Random, world: World) -> list[str]:
    """The words with some left out, repeated, or help among them."""
    words = list(words)
    chance = luck.random()
    place = luck.randrange(len(words) + 1)
    if chance < 0.06:
        words.insert(place, luck.choice(("--help", "-h", "--help-all", "--version")))
    elif chance < 0.12 and words:
        del words[min(place, len(words) - 1)]
    elif chance < 0.16:
        words.insert(place, luck.choice((world.any_path(luck), "--", luck.choice(TEXTS))))
    elif chance < 0.2:
        words += words
    elif chance < 0.23:
        luck.shuffle(words)
    return [word.replace("\0", "") for word in words]
