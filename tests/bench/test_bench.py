"""`engine bench`: every setting measured in turns, told on a terminal and in JSON."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import engine
import engine.bench
from engine.cli import app
from engine.core.telemetry import Progress
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import BackendError, InputError, SettingsError, Stopped

bench = importlib.import_module("engine.bench.sweep")
FEW = ("--budgets", "128,256", "--workers", "1,2", "--rounds", "2")
SETTINGS = [(128, 1), (256, 1), (128, 2), (256, 2)]
ENGINE = [sys.executable, "-m", "engine", "bench"]


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """An environment with temporary files in a folder of its own."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"id": range(40), "text": [spanish(n) for n in range(40)]}), file)
    return file


def call(here: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ENGINE, *map(str, arguments)], capture_output=True, text=True, check=False, env=here
    )


def test_json_of_the_embedded_model_has_every_setting(here: dict[str, str]) -> None:
    done = call(here, "demo", "--limit", "50", *FEW, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert [(s["batch_tokens"], s["workers"]) for s in found["sweep"]] == SETTINGS
    for setting in found["sweep"]:
        assert len(setting["rounds"]) == 2
        assert setting["padding"] >= 1
        assert setting["seconds"] > 0
        assert setting["rows_per_second"] > 0
        assert setting["tokens_per_second"] > 0
    assert found["best"] in [
        {name: s[name] for name in ("batch_tokens", "workers", "threads")} for s in found["sweep"]
    ]
    assert found["task"] == "translation"
    assert found["rows"] + found["rejected"] == 50
    assert found["tokens"] > found["rows"]
    assert found["output_tokens"] > found["rows"]
    assert set(found["stages"]) == {"read", "tokenize", "batch", "infer", "finish", "write"}
    assert 0 < found["startup_seconds"] < found["first_answer_seconds"]
    assert found["peak_bytes"] > 1 << 20
    assert found["machine"]["cores"] >= 1
    assert {"corpus-engine", "tokenizers", "numpy"} <= set(found["machine"]["versions"])
    assert "peers" not in found
    assert not list(Path(here["TMPDIR"]).glob("engine-bench-*"))


def test_a_folder_bundle_is_told_with_the_settings_to_use(
    here: dict[str, str], numbers: Path, tmp_path: Path
) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    done = call(here, tmp_path / "bundle", numbers, *FEW)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'bundle'}: translation"
    assert "40 rows" in lines[1]
    (best,) = (line.split() for line in lines if line.startswith("*"))
    assert lines[-1] == f"engine run ... --batch-tokens {best[1]} --workers {best[2]}"
    assert (int(best[1]), int(best[2])) in SETTINGS
    for told in ("time at work", "padding", "load", "first answer", "peak memory", "20 to 30%"):
        assert told in done.stdout
    assert "round 2 of 2" in done.stderr
    assert not list(Path(here["TMPDIR"]).glob("engine-bench-*"))


def test_column_limit_and_options_are_those_of_a_run(here: dict[str, str], tmp_path: Path) -> None:
    rows = [{"numero": spanish(n)} for n in range(30)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:8], "{broken", *lines[8:]]))
    settings = ("--text", "numero", "--limit", "20", "--max-new-tokens", "3")
    one = ("--budgets", "64", "--workers", "1", "--rounds", "1")
    done = call(here, BUNDLE, tmp_path / "a.jsonl", *settings, *one, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    run = engine.run(
        BUNDLE, tmp_path / "a.jsonl", tmp_path / "out", text="numero", limit=20, max_new_tokens=3,
        on_error="reject", batch_tokens=64,
    )  # fmt: skip
    assert (found["rows"], found["rejected"]) == (run.rows_out, run.rows_rejected) == (19, 1)
    assert found["tokens"] == run.tokens
    assert found["output_tokens"] == run.output_tokens
    assert found["padding"] == run.padding
    assert found["loaded"] == 1


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no such bundle": (["nowhere", "FILE"], 1, "no such bundle"),
    "no input": ([str(BUNDLE)], 1, "no input was given"),
    "no such file": ([str(BUNDLE), "missing.parquet"], 1, "no such file"),
    "wrong column": ([str(BUNDLE), "FILE", "--text", "body"], 2, "no column 'body'"),
    "no rows": ([str(BUNDLE), "EMPTY"], 1, "nothing to measure"),
    "only bad rows": ([str(BUNDLE), "BAD"], 1, "all 2 rows are bad"),
    "budgets": (["demo", "FILE", "--budgets", "x"], 2, "budgets is 'x'"),
    "no budgets": (["demo", "FILE", "--budgets", ","], 2, "budgets is empty"),
    "budget of 0": (["demo", "FILE", "--budgets", "512,0"], 2, "budgets is 0"),
    "workers": (["demo", "FILE", "--workers", "-1"], 2, "workers is -1"),
    "rounds": (["demo", "FILE", "--rounds", "0"], 2, "rounds is 0"),
    "limit": (["demo", "FILE", "--limit", "-1"], 2, "limit is -1"),
    "length": (["demo", "FILE", "--max-length", "2"], 2, "max_length is 2"),
    "device": (["demo", "FILE", "--device", "tpu"], 2, "'tpu'"),
    "option of another task": (["demo", "FILE", "--targets", "a"], 2, "'targets'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_a_hint(
    case: str, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": null}\n{broken\n')
    files = {"FILE": numbers, "EMPTY": tmp_path / "empty.jsonl", "BAD": tmp_path / "bad.jsonl"}
    arguments, code, said = WRONG[case]
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    done = CliRunner().invoke(app, ["bench", *(str(files.get(a, a)) for a in arguments)])
    assert isinstance(done.exception, engine.EngineError), done.output
    assert done.exception.exit_code == code
    assert said in done.exception.message
    assert done.exception.hint
    assert not list((tmp_path / "tmp").glob("engine-bench-*"))


def test_an_interrupt_stops_it_without_traces(here: dict[str, str]) -> None:
    command = [*ENGINE, "demo", "--limit", "100", "--rounds", "1000", "--budgets", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=here)
    assert process.stderr
    while "round 1 of" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 75, rest
    assert "stopped" in rest
    assert "Traceback" not in rest
    assert not list(Path(here["TMPDIR"]).glob("engine-bench-*"))


REPORT: dict[str, Any] = {
    "out": "", "task": "translation", "device": "cpu", "rows_in": 10, "rows_out": 10,
    "rows_rejected": 0, "tokens": 100, "truncated": 0, "output_tokens": 0, "splits": 1,
    "splits_skipped": 0, "rows_computed": 10, "padded_tokens": 110, "seconds": 1.0,
    "rows_per_second": 10.0, "tokens_per_second": 100.0, "padding": 1.1,
}  # fmt: skip


class Runs:
    """In the place of engine.run: each takes as long as it is told to, by a clock of its own."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.order: list[int] = []

    def __call__(self, *inputs: object, batch_tokens: int, limit: int, **more: object) -> Any:
        if limit:
            return None
        self.order.append(batch_tokens)
        if not self.seconds[batch_tokens]:
            raise BackendError(f"no memory for {batch_tokens}", "a smaller one")
        took = self.seconds[batch_tokens].pop(0)
        self.now += took
        return engine.Report(**REPORT, stage_seconds={"infer": took})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sweep with these seconds for each budget's rounds; a budget without any fails."""

    def measure(
        numbers: Path, seconds: dict[int, list[float]], rounds: int = 3
    ) -> tuple[Any, list[int]]:
        runs = Runs(seconds)
        monkeypatch.setattr(bench.coordinator, "run", runs)
        monkeypatch.setattr(bench, "Bundle", SimpleNamespace(load=lambda *a, **k: None))
        monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: runs.now))
        found = bench.sweep(BUNDLE, [numbers], budgets=list(seconds), workers=(1,), rounds=rounds)
        return found, runs.order

    return measure


def test_settings_take_turns_and_the_best_median_wins(timed: Any, numbers: Path) -> None:
    found, order = timed(numbers, {64: [1.0, 9.0, 5.0], 128: [2.0, 6.0, 4.0], 256: [4.5] * 3})
    assert order == [64, 128, 256] * 3
    assert [s["seconds"] for s in found.sweep] == [5.0, 4.0, 4.5]
    assert found.sweep[1]["rounds"] == [2.0, 6.0, 4.0]
    assert found.sweep[1]["rows_per_second"] == 2.5
    assert found.sweep[1]["tokens_per_second"] == 25.0
    assert found.best.batch_tokens == 128
    assert found.stages == {"infer": 4.0}


def test_a_setting_that_fails_says_so_and_the_others_go_on(timed: Any, numbers: Path) -> None:
    from engine.cli.bench import report

    found, order = timed(numbers, {64: [2.0, 2.0, 2.0], 128: []})
    assert order == [64, 128, 64, 64]
    assert found.sweep[1]["failed"] == "no memory for 128"
    assert found.best.batch_tokens == 64
    told = "\n".join(report(found, bench.machine()))
    assert "failed: no memory for 128" in told
    with pytest.raises(BackendError, match="no memory for 64"):
        timed(numbers, {64: [], 128: []})


def test_progress_is_the_share_of_the_rows_that_are_measured(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*inputs: object, on_progress: Any, limit: int, **more: object) -> Any:
        on_progress(Progress(0.0, (limit or 20) // 2, 0, 0, 0, 0, 1, 1.0))
        return engine.Report(**REPORT, stage_seconds={})

    monkeypatch.setattr(bench.coordinator, "run", run)
    seen: list[float] = []
    bench.sweep(
        BUNDLE, [numbers], budgets=[64], workers=[1], rounds=1, limit=20,
        on_progress=lambda progress: seen.append(progress.done),
    )  # fmt: skip
    assert seen == [0.0, 0.5, 0.5]


def test_a_stopped_run_stops_the_sweep(
    timed: Any, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Runs, *inputs: object, **more: object) -> None:
        raise Stopped("stopped with 0 of 1 parts finished", "run the same command again to go on")

    monkeypatch.setattr(Runs, "__call__", stopped)
    with pytest.raises(Stopped) as said:
        timed(numbers, {64: [1.0]})
    assert not said.value.hint


def test_a_sample_is_the_first_good_rows_over_all_files(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "uno"}\n{"text": 7}\n{"text": "dos"}\n')
    inputs = [numbers, tmp_path / "a.jsonl"]
    for limit, rows in ((1, 1), (3, 2), (5, 4), (0, 42)):
        file = tmp_path / f"{limit}.arrow"
        taken = bench.sample(BUNDLE, inputs, file, limit=limit)
        table = pa.ipc.open_file(pa.OSFile(str(file))).read_all()
        assert table.column_names == ["text"]
        assert taken.rows == len(table) == rows
        assert taken.rejected == (limit != 1)
        assert table["text"].to_pylist() == ["uno", "dos", *map(spanish, range(40))][:rows]


def test_text_and_lists_of_it_are_not_measured_together(tmp_path: Path) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(BUNDLE, folder)
    description = json.loads((folder / "bundle.json").read_text())
    description |= {"task": "token-classification"}
    description["model_config"]["labels"] = ["O", "B-NUMBER"]
    (folder / "bundle.json").write_text(json.dumps(description))
    for name, rows in (("a", ["uno"]), ("b", [["uno", "dos"]])):
        pq.write_table(pa.table({"text": rows}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="lists"):
        bench.sample(folder, sorted(tmp_path.glob("*.parquet")), tmp_path / "rows.arrow")


def test_settings_of_a_sweep_are_checked_first() -> None:
    for wrong in ({"budgets": ()}, {"workers": [0]}, {"budgets": ["x"]}, {"rounds": 0}):
        with pytest.raises(SettingsError):
            bench.sweep("nowhere", ["nothing"], **wrong)


def test_a_profile_says_where_the_time_of_inference_goes(
    tiny_bundles: Path, tmp_path: Path
) -> None:
    from engine.bench.profile import profile

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "the house {n}"}}\n' for n in range(40)))
    setting = bench.SweepPoint(batch_tokens=64, workers=2, threads=1)
    found = profile(tiny_bundles / "t5", [rows], setting, limit=30, options={"max_new_tokens": 6})
    assert found.rows == 30
    assert found.first_token_seconds
    assert found.occupancy
    assert 0.5 < found.occupancy <= 1
    assert {graph["graph"] for graph in found.graphs} == {"encoder", "step"}
    assert all(graph["runs"] and graph["seconds"] > 0 for graph in found.graphs)
    assert 0 < found.outside < 1
    assert found.outside == pytest.approx(1 - sum(g["share"] for g in found.graphs), abs=1e-3)
    assert sum(op["share"] for op in found.ops) == pytest.approx(1, abs=0.01)
    assert {"MatMul", "GroupQueryAttention", "TopK"} <= {op["op"] for op in found.ops}
    assert json.loads(json.dumps(found.to_dict()))["setting"]["batch_tokens"] == 64

    found = profile(tiny_bundles / "embedder", [rows], setting)
    assert found.rows == 40
    assert found.first_token_seconds is None
    assert found.occupancy is None


def test_a_first_token_is_one_token(
    tiny_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.bench import profile

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "the house {n}"}}\n' for n in range(20)))
    run, made = profile.coordinator.run, []

    def told(*given: Any, **more: Any) -> Any:
        made.append(run(*given, **more))
        return made[-1]

    monkeypatch.setattr(profile.coordinator, "run", told)
    setting = bench.SweepPoint(batch_tokens=64, workers=1, threads=1)
    options = {"max_new_tokens": 6, "min_new_tokens": 6}
    found = profile.profile(tiny_bundles / "t5", [rows], setting, limit=0, options=options)
    first, _, *whole = made
    assert (first.rows_out, first.output_tokens) == (1, 1)
    assert all((report.rows_out, report.output_tokens) == (20, 120) for report in whole)
    assert found.rows == 20


def test_a_profile_is_shown_beside_the_sweep(here: dict[str, str], numbers: Path) -> None:
    one = ("--budgets", "64", "--workers", "1", "--rounds", "1")
    done = call(here, "demo", numbers, "--profile", *one)
    assert done.returncode == 0, done.stderr
    for told in ("first token ", "occupied ", "inference  ", "outside of graphs", "share of ops"):
        assert told in done.stdout
    assert not list(Path(here["TMPDIR"]).glob("engine-bench-*"))
    assert not list(Path.cwd().glob("onnxruntime_profile*"))


def test_options_that_change_nothing_are_noted(numbers: Path) -> None:
    lines: list[str] = []
    options = {"top_k": 3, "length_penalty": 2.0}
    bench.sweep(
        BUNDLE, [numbers], budgets=[128], workers=[1], rounds=1, options=options,
        progress=lines.append,
    )  # fmt: skip
    notes = [line for line in lines if line.startswith("note: ")]
    assert [note.split(":")[1] for note in notes] == [
        " length_penalty changed nothing",
        " top_k changed nothing",
    ]
