"""The points of `faults.canaries`: commands over a corpus whose rows hold `ROW`."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
from faults.canary_corpora import (
    ADDRESS,
    BAD_LINES,
    CORPORA,
    GOOD,
    ROW,
    ROWS,
    TEXT,
    lines_of,
    parquet_of,
)

# Nobody listens there.
NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True)
class Point:
    """One command.

    Attributes:
        arguments: Of the engine; {in} is the corpus and {out} the output.
        files: The corpus: content by name below {in}.
        env: Changes to the environment.
        before: Called in the child before the command, to break something.
        allowed: Beginnings of file names below {out} that may hold the row's text.
        rc: Exit codes that the point means to see.
        call: What is done instead of the command, given the folder.
    """

    name: str
    arguments: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    allowed: tuple[str, ...] = ("part-", "_tmp/")
    rc: tuple[int, ...] = (1,)
    call: Callable[[Path], None] | None = None


def points(folder: Path) -> Iterator[Point]:
    """All points; `folder` is for bundles and the like."""
    yield Point("control", (), rc=(0,), call=_leak)
    yield from _good_runs()
    yield from _bad_rows()
    yield from _broken_files()
    yield from _failing_runs(folder)
    yield from _addresses()
    if find_spec("obstore"):
        yield from _served()
    yield from _bugs()
    yield from _exports(folder)
    yield from _other_tasks()


RUN = ("run", "{bundle}", "{in}", "-o", "{out}")
KEEP = ("--keep", "all")
REJECT = ("--on-error", "reject")


def _good_runs() -> Iterator[Point]:
    for name, files in CORPORA.items():
        keep = KEEP if name != "txt" else ()
        yield Point(f"good {name}", (*RUN, *keep), files, rc=(0,))
    for kind in ("parquet", "jsonl", "csv"):
        yield Point(f"good into {kind}", (*RUN, *KEEP, "--format", kind), CORPORA["jsonl"], rc=(0,))
    yield Point("good as json", (*RUN, "--json", *KEEP), CORPORA["jsonl"], rc=(0,))
    yield Point("plan", (*RUN, "--dry-run", *KEEP), CORPORA["parquet"], rc=(0,))
    yield Point("plan as json", (*RUN, "--dry-run", "--json", *KEEP), CORPORA["csv"], rc=(0,))
    loud = {"RUST_LOG": "trace", "RUST_BACKTRACE": "full", "HF_DEBUG": "1",
            "ARROW_DEBUG_MEMORY_POOL": "warn", "CORPUS_ENGINE_DEBUG": "1"}  # fmt: skip
    yield Point("loud", (*RUN, *KEEP), CORPORA["jsonl"], loud, before=_be_loud, rc=(0,))
    yield Point("loud and bad", RUN, {"a.jsonl": BAD_LINES["broken"]}, loud, before=_be_loud)
    many = lines_of(*ROWS * 400)
    yield Point(
        "killed", (*RUN, *KEEP, "--workers", "1"), {"a.jsonl": many},
        before=lambda: _signal_later(signal.SIGKILL, 1.0), rc=(-9, 0),
    )  # fmt: skip
    yield Point(
        "stopped", (*RUN, *KEEP, "--workers", "1"), {"a.jsonl": many},
        before=lambda: _signal_later(signal.SIGTERM, 1.0), rc=(75, 0),
    )  # fmt: skip
    yield Point(
        "stacks dumped", (*RUN, *KEEP, "--workers", "1"), {"a.jsonl": many},
        before=lambda: _dump_stacks_later(0.5), rc=(0, 1),
    )  # fmt: skip


def _bad_rows() -> Iterator[Point]:
    for name, content in BAD_LINES.items():
        files = {"a.jsonl": GOOD + content}
        yield Point(f"bad, {name}: stop", (*RUN, *KEEP), files, rc=(0, 1, 2))
        yield Point(
            f"bad, {name}: reject", (*RUN, *REJECT, *KEEP, "--json"), files, rc=(0, 1, 2, 3)
        )
    mixed = {"a.jsonl": GOOD + b"".join(BAD_LINES[n] for n in ("not text", "broken", "bytes"))}
    yield Point("bad, too many", (*RUN, *REJECT, "--max-rejects", "1"), mixed)
    yield Point("bad, limit", (*RUN, *REJECT, "--limit", "8"), mixed, rc=(3,))
    yield Point(
        "bad, with texts", (*RUN, *REJECT, "--reject-text"), mixed,
        allowed=("part-", "_tmp/", "_manifest/rejects/"), rc=(3,),
    )  # fmt: skip
    yield Point("bad, to a pipe", ("run", "{bundle}", "{in}", "-o", "-", *REJECT), mixed, rc=(3,))
    yield Point("too long", (*RUN, "--max-row-bytes", "1KiB"),
                {"a.jsonl": lines_of({"text": f"{ROW} " * 4000})}, rc=(1, 2))  # fmt: skip
    types = {"s.json": b'{"note": "int64", "id": "int8"}'}
    for kind, files in CORPORA.items():
        if kind not in ("txt",):
            yield Point(
                f"types, {kind}", (*RUN, *KEEP, "--schema", "{in}/../s.json"),
                {**files, "../s.json": types["s.json"]}, rc=(0, 1, 2),
            )  # fmt: skip
            yield Point(
                f"types rejected, {kind}", (*RUN, *REJECT, *KEEP, "--schema", "{in}/../s.json"),
                {**files, "../s.json": types["s.json"]}, rc=(0, 1, 2, 3),
            )  # fmt: skip
    csv = b"text,id\nuno,1\n"
    for name, content in {
        "more fields": f"{ROW}a,{ROW}b,{ROW}c\n", "fewer": f"{ROW}a\n", "quote": f'"{ROW}a,1\n',
        "quotes within": f'{ROW}"a"b,"1"x\n', "nul": f"{ROW}\0,1\n",
    }.items():  # fmt: skip
        for more in ((), REJECT):
            yield Point(
                f"csv, {name}{' rejected' if more else ''}", (*RUN, *KEEP, *more),
                {"a.csv": csv + content.encode()}, rc=(0, 1, 2, 3),
            )  # fmt: skip
    yield Point("csv, bytes", (*RUN, *KEEP), {"a.csv": csv + ROW.encode() + b"\xff,1\n"}, rc=(0, 1))
    columns = {
        "null": pa.table({"text": pa.array([TEXT, None])}),
        "number": pa.table({"text": [773177317731]}),
        "list": pa.table({"text": [[TEXT]]}),
        "bytes": pa.table({"text": pa.array([ROW.encode() + b"\xff"], pa.binary())}),
    }
    for name, table in columns.items():
        for more in ((), REJECT):
            yield Point(
                f"parquet, {name}{' rejected' if more else ''}", (*RUN, *more),
                {"a.parquet": parquet_of(table)}, rc=(0, 1, 2, 3),
            )  # fmt: skip


def _broken_files() -> Iterator[Point]:
    parquet, arrow = CORPORA["parquet"]["a.parquet"], CORPORA["arrow"]["a.arrow"]
    packed = CORPORA["gz"]["a.jsonl.gz"]
    middle = parquet.index(ROW.encode())
    broken = {
        "parquet, flipped.parquet": parquet[: middle - 6] + b"\xff" * 5 + parquet[middle - 1 :],
        "parquet, cut.parquet": parquet[:-20],
        "arrow, cut.arrow": arrow[: len(arrow) // 2],
        "arrow, flipped.arrow": arrow[:200] + b"\xff" * 8 + arrow[208:],
        "gz, cut.jsonl.gz": packed[: len(packed) // 2],
        "plain as gz.jsonl.gz": GOOD,
        "plain as parquet.parquet": GOOD,
        "plain as arrow.arrow": GOOD,
        "plain as json.json": TEXT.encode(),
        "json, cut.json": CORPORA["json"]["a.json"][:-30],
        "utf-16.jsonl": GOOD.decode().encode("utf-16"),
        "csv as jsonl.jsonl": CORPORA["csv"]["a.csv"],
    }
    for name, content in broken.items():
        for more in ((), (*REJECT, *KEEP)):
            yield Point(
                f"file, {name}{' rejected' if more else ''}", (*RUN, *more), {name: content},
                rc=(0, 1, 2, 3),
            )  # fmt: skip


def _failing_runs(folder: Path) -> Iterator[Point]:
    files = CORPORA["jsonl"]
    yield Point("no such column", (*RUN, "--text", "body"), files, rc=(2,))
    yield Point("no such column to keep", (*RUN, "--keep", "other"), files, rc=(2,))
    yield Point("no such option", (*RUN, "--nonsense", "1"), files, rc=(2,))
    yield Point("no such file", ("run", "{bundle}", "{in}/b.jsonl", "-o", "{out}"), files)
    yield Point("no such bundle", ("run", "{in}", "{in}", "-o", "{out}"), files)
    yield Point("out below a file", ("run", "{bundle}", "{in}", "-o", "{in}/a.jsonl/out"), files)
    for kind in ("arrow", "jsonl"):
        yield Point(
            f"no space for {kind}", (*RUN, *KEEP, "--format", kind),
            {"a.jsonl": lines_of(*ROWS * 300)}, before=lambda: _limit_files(20_000),
        )  # fmt: skip
    bundles = {
        "description": ("bundle.json", lambda content: content[: len(content) // 2]),
        "weights": ("weights.bin", lambda content: content[:-8] + b"\xff" * 8),
        "tokenizer": ("tokenizer.json", lambda content: content[:-100]),
    }
    from engine.demo import BUNDLE

    for name, (file, change) in bundles.items():
        broken = folder / f"broken-{name}"
        shutil.copytree(BUNDLE, broken)
        (broken / file).write_bytes(change((broken / file).read_bytes()))
        yield Point(f"broken {name}", ("run", str(broken), "{in}", "-o", "{out}"), files)
    one = ("run", "{bundle}", "{in}", "-o", "{out}.jsonl")
    yield Point("one file", (*one, *KEEP), files, rc=(0,))
    yield Point("bench", ("bench", "{bundle}", "{in}", "--rounds", "1", "--workers", "1",
                          "--budgets", "64", "--json"), files, rc=(0,))  # fmt: skip
    yield Point("doctor", ("doctor",), rc=(0,))


def _addresses() -> Iterator[Point]:
    user, signed = f"user:{ADDRESS}@", f"?X-Amz-Signature={ADDRESS}&token={ADDRESS}"
    quick = {"HF_ENDPOINT": f"http://{user}{NOWHERE}", "AWS_ENDPOINT_URL": f"http://{NOWHERE}",
             "AWS_REGION": "x"}  # fmt: skip
    inputs = [
        f"https://{user}{NOWHERE}/a.jsonl", f"http://{NOWHERE}/a.jsonl{signed}",
        f"s3://{user}bucket/a.jsonl{signed}", f"ftp://{user}host/a.jsonl",
        f"hf://{ADDRESS}@datasets/a/b{signed}", f"file://{user}host/a.jsonl",
    ]  # fmt: skip
    for number, address in enumerate(inputs):
        for more in ((), ("--dry-run",)):
            yield Point(
                f"input address {number}{' planned' if more else ''}",
                ("run", "{bundle}", address, "-o", "{out}", *more), env=quick,
                before=_few_retries, rc=(1, 2),
            )  # fmt: skip
        yield Point(f"model address {number}", ("run", address, "{in}", "-o", "{out}"),
                    CORPORA["jsonl"], quick, before=_few_retries, rc=(1, 2))  # fmt: skip
    for number, address in enumerate((f"s3://{user}bucket/out", f"s3://bucket/out{signed}",
                                      f"https://{user}host/out")):  # fmt: skip
        yield Point(f"output address {number}", ("run", "{bundle}", "{in}", "-o", address),
                    CORPORA["jsonl"], quick, before=_few_retries, rc=(1, 2))  # fmt: skip
        for command in ("inspect", "verify", "gc", "rejects"):
            yield Point(f"{command} address {number}", (command, address), {}, quick,
                        before=_few_retries, rc=(1, 2))  # fmt: skip


class _Files(BaseHTTPRequestHandler):
    """A web server of one file, which knows ranges and takes no notice of passwords."""

    def do_HEAD(self) -> None:  # the library's name
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        size, wanted = len(GOOD), re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]), size - 1) if wanted and wanted[2] else size - 1
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 08:00:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(GOOD[first : last + 1])

    def log_message(self, *arguments: object) -> None:
        pass


def _served() -> Iterator[Point]:
    """Runs that read a file of a web server, by an address with a password and a signature."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    address = f"http://user:{ADDRESS}@127.0.0.1:{server.server_port}/a.jsonl?token={ADDRESS}"

    def serve() -> None:
        threading.Thread(target=server.serve_forever, daemon=True).start()

    run = ("run", "{bundle}", address, "-o", "{out}", "--keep", "all,_file")
    for name, arguments in {
        "served": run, "served, as json": (*run, "--json"),
        "served, planned": (*run, "--dry-run"), "served, no column": (*run, "--text", "body"),
    }.items():  # fmt: skip
        yield Point(name, arguments, before=serve, rc=(0, 1, 2))
    server.server_close()


def _bugs() -> Iterator[Point]:
    """An exception that nobody translates, and whose message quotes a row."""
    for stage in ("encode", "infer", "finish"):
        for env in ({}, {"CORPUS_ENGINE_DEBUG": "1"}):
            yield Point(
                f"bug in {stage}{', debugging' if env else ''}", RUN, CORPORA["jsonl"], env,
                before=lambda stage=stage: _break_stage(stage),
            )  # fmt: skip
    yield Point("bug in the writer", (*RUN, *KEEP), CORPORA["jsonl"], before=_break_writer)
    yield Point("bug in the plan", RUN, CORPORA["jsonl"], before=_break_plan)


def _exports(folder: Path) -> Iterator[Point]:
    quick = {"HF_ENDPOINT": f"http://user:{ADDRESS}@{NOWHERE}", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    if not _has_export():
        return
    from engine.demo import CHECKPOINT

    yield Point("export from nowhere", ("export", "owner/name", "-o", "{out}"), env=quick)
    broken = folder / "checkpoint"
    shutil.copytree(CHECKPOINT, broken)
    (broken / "config.json").write_text('{"model_type": ')
    yield Point("export of a broken one", ("export", str(broken), "-o", "{out}"), rc=(1, 2))
    sample = ("quantize", "{bundle}", "-o", "{out}", "--recipe", "int8", "--text", "text")
    for name, content in {
        "bad": BAD_LINES["broken"], "no text": BAD_LINES["not text"], "good": GOOD * 3,
    }.items():  # fmt: skip
        yield Point(f"sample, {name}", (*sample, "--sample", "{in}/a.jsonl"),
                    {"a.jsonl": content}, allowed=(), rc=(0, 1, 2))  # fmt: skip


def _other_tasks() -> Iterator[Point]:
    """Every task with a stand-in for its model, from Python: good rows, bad ones and lists. Four
    have no stand-in that answers, and bad rows only."""
    silent = ("text-generation", "question-answering", "fill-mask", "token-classification")
    from support.fakes import MODEL_CONFIGS

    from engine.tasks import TASKS

    for name in MODEL_CONFIGS:
        columns = [column.name for column in TASKS[name].inputs]
        good = [dict.fromkeys(columns, TEXT) for _ in range(4)]
        for kind, row in {
            "good": {}, "null": dict.fromkeys(columns), "number": {columns[-1]: 773177317731},
            "object": {columns[0]: {"a": TEXT}}, "list": {columns[-1]: [TEXT, None]},
        }.items():  # fmt: skip
            files = {"a.jsonl": lines_of(*good, good[0] | row)}
            policies = ("fail", "reject") if name not in silent else ("fail",) if row else ()
            for policy in policies:
                yield Point(
                    f"{name}, {kind}: {policy}", (), files, rc=(0, 1),
                    call=lambda folder, task=name, policy=policy: _run_fake(folder, task, policy),
                )  # fmt: skip
        if name in silent:
            continue
        yield Point(f"{name}, in memory", (), rc=(0,),
                    call=lambda folder, task=name: _call_fake(folder, task))  # fmt: skip


def _run_fake(folder: Path, task: str, policy: str) -> None:
    from support.fakes import make_bundle, open_bundle

    from engine.runner import coordinator

    bundle = open_bundle(make_bundle(folder / "bundle", task))
    labels = {"candidate_labels": "a,b"} if task.startswith("zero") else {}
    report = coordinator.run(
        bundle, folder / "in", folder / "out", on_error=policy, keep=["all"], **labels
    )  # type: ignore[arg-type]
    print(report)


def _call_fake(folder: Path, task: str) -> None:
    from support.fakes import make_bundle, open_bundle

    from engine.errors import EngineError

    bundle = open_bundle(make_bundle(folder / "bundle", task))
    for item in (
        3,
        {f"k{ROW[:2]}": TEXT},
        [TEXT, 3],
        (TEXT,) * 5,
        f"{ROW}\ud800",
        {"text": [TEXT, 3]},
    ):
        for items in ([item], [TEXT, item]):
            try:
                bundle(items)  # type: ignore[arg-type]
            except EngineError:
                traceback.print_exc()


def _has_export() -> bool:
    from engine.errors import EngineError
    from engine.export import check_installed

    try:
        check_installed()
    except EngineError:
        return False
    return True


# ---- what is broken in a child, before its command


def _leak(folder: Path) -> None:
    """Everything that must not happen, so that a search that finds nothing is one that can."""
    print(TEXT, 773177317731)
    print(os.environ["HF_TOKEN"], file=sys.stderr)
    (folder / "out" / "_manifest").mkdir(parents=True)
    (folder / "out" / "_manifest" / "run.json").write_text(f"https://user:{ADDRESS}@host")
    (folder / "out" / f"part-{ROW}").write_bytes(TEXT.encode("utf-16"))


def _be_loud() -> None:
    import faulthandler
    import logging
    import warnings

    import onnxruntime

    logging.basicConfig(level=1)
    warnings.simplefilter("always")
    faulthandler.enable(file=sys.__stderr__)
    onnxruntime.set_default_logger_severity(1)


def _signal_later(number: int, seconds: float) -> None:
    if not os.fork():
        time.sleep(seconds)
        os.kill(os.getppid(), number)
        os._exit(0)


def _dump_stacks_later(seconds: float) -> None:
    import faulthandler

    faulthandler.enable(file=sys.__stderr__)
    faulthandler.dump_traceback_later(seconds, repeat=True, file=sys.__stderr__)


def _limit_files(most: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _few_retries() -> None:
    from engine.data import stores

    stores.RETRIES["max_retries"] = 0


def _break_stage(stage: str) -> None:
    from engine.answering.stages import Stages

    def fail(*arguments: object, **more: object) -> object:
        raise ValueError(f"{TEXT}: {arguments!r}")

    setattr(Stages, stage, fail)


def _break_writer() -> None:
    from engine.runner.part import PartWriter

    def fail(*arguments: object, **more: object) -> object:
        raise pa.ArrowInvalid(f"Failed to parse value: {TEXT}")

    PartWriter.write = fail  # type: ignore[method-assign]


def _break_plan() -> None:
    from engine.runner import coordinator

    def fail(*arguments: object, **more: object) -> object:
        raise KeyError(TEXT)

    coordinator.make_plan = fail  # type: ignore[attr-defined]
