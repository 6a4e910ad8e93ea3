"""engine tune: what is found is kept beside the bundle and taken by runs on that machine alone."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import engine
from engine.bench import trials
from engine.bench import tune as room
from engine.bench.tune import tune
from engine.bundle import tuned
from engine.cli import app, numbers
from engine.core.config import RunConfig
from engine.core.device import CPU
from engine.core.hardware import cores, cpu
from engine.demo import BUNDLE
from engine.errors import (
    BundleError,
    ColumnError,
    DeviceError,
    InputError,
    OutputError,
    SettingsError,
)

pytest.importorskip("onnxruntime")

measuring = importlib.import_module("engine.bench.sweep")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"dos mil {n}"}) for n in range(40)))
    return file


def found(**changes: object) -> tuned.Tuned:
    settings = tuned.Tuned(512, 1, 1, cpu()[0], cores(), "rows", 1.5)
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]  # checked by use


def settings_of(out: Path) -> dict[str, object]:
    settings = json.loads((out / "_manifest/run.json").read_text())["settings"]
    return dict(settings)


@pytest.mark.parametrize("given", [False, True])
def test_the_fastest_settings_are_kept(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setattr(room, "BUDGETS", (256, 512))
    arguments = ["tune", str(folder), *([str(corpus)] if given else []), "--seconds", "1", "--json"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    kept = tuned.load(folder)
    assert kept is not None
    assert kept.here("")
    assert kept.batch_tokens in (256, 512, 1024)
    assert 1 <= kept.workers <= max(4, cores())
    assert kept.threads == max(1, cores() // kept.workers)
    assert kept.sample == (str(corpus) if given else "bundled sentences")
    sweep = json.loads(said.stdout)["sweep"]
    (default,) = (one for one in sweep if one["difference"] == "default")
    assert (default["batch_tokens"], default["ratio"]) == (1024, 1.0)
    for one in sweep:
        lowest, highest = one["spread"]
        assert lowest <= highest
        assert len(one["rounds"]) >= trials.MIN_ROUNDS
    (chosen,) = (one for one in sweep if (one["batch_tokens"], one["workers"])
                 == (kept.batch_tokens, kept.workers))  # fmt: skip
    assert chosen["difference"] in ("default", "faster")
    engine.Bundle.load(folder)
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert "tuned:" in shown.output


def test_a_run_takes_them(folder: Path, corpus: Path, tmp_path: Path) -> None:
    tuned.save(folder, found())
    engine.run(folder, corpus, tmp_path / "out")
    assert settings_of(tmp_path / "out")["batch_tokens"] == 512


def test_a_loaded_bundle_has_them(folder: Path, corpus: Path, tmp_path: Path) -> None:
    tuned.save(folder, found())
    bundle = engine.Bundle.load(folder)
    for loaded in (bundle, pickle.loads(pickle.dumps(bundle))):
        assert (loaded.batch_tokens, loaded.workers) == (512, 1)
    engine.run(bundle, corpus, tmp_path / "loaded")
    engine.run(folder, corpus, tmp_path / "out")
    assert settings_of(tmp_path / "loaded") == settings_of(tmp_path / "out")
    engine.run(bundle, corpus, tmp_path / "other", workers=2)
    assert settings_of(tmp_path / "other")["batch_tokens"] == 0
    for given in ({"threads": 1}, {"workers": 2}):
        assert engine.Bundle.load(folder, **given).batch_tokens == 0


def test_in_memory_batches_are_cut_as_in_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[int] = []
    stages = engine.Bundle.stages

    def watched(self: engine.Bundle, *given: Any, **more: Any) -> Any:
        bound = stages(self, *given, **more)
        budgets.append(bound.budget)
        return bound

    monkeypatch.setattr(engine.Bundle, "stages", watched)
    tuned.save(folder, found())
    bundle, table = engine.Bundle.load(folder), pa.table({"text": ["dos", "tres"]})
    bundle(["dos"])
    bundle.answer(table)
    list(bundle.stream([table]))
    bundle.answer(table, batch_tokens=300)
    assert budgets == [512, 512, 512, 300]


@pytest.mark.parametrize("settings", [{"batch_tokens": 300}, {"workers": 2}, {"threads": 1}])
def test_what_a_person_gives_goes_before_them(
    folder: Path, corpus: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    tuned.save(folder, found())
    engine.run(folder, corpus, tmp_path / "out", **settings)
    expected = settings.get("batch_tokens", 0)
    assert settings_of(tmp_path / "out")["batch_tokens"] == expected


def test_of_another_machine_or_device_they_are_not_taken(folder: Path) -> None:
    config = RunConfig()
    for other in (found(cpu="another"), found(cores=cores() + 1)):
        tuned.save(folder, other)
        assert tuned.applied(folder, config, "") == config
    tuned.save(folder, found())
    tuned.save(folder, found(gpu="H100", batch_tokens=32768))
    assert tuned.applied(folder, config, "").batch_tokens == 512
    assert tuned.applied(folder, config, "H100").batch_tokens == 32768
    assert tuned.applied(folder, config, "another").batch_tokens == 0
    shown = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).output)
    gpus = {kind: one.get("gpu") for kind, one in shown["tuned"].items()}
    assert gpus == {"cpu": None, "cuda": "H100"}


def test_on_a_gpu_larger_batches_are_tried_and_kept_apart(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in its place, which answers under another name."""
    monkeypatch.setattr(room, "gpu_name", lambda device: "H100")
    monkeypatch.setattr(room, "devices", lambda device: (CPU,))
    monkeypatch.setattr(room, "GPU_BUDGETS", (4096, 16384))
    kept, found = tune(folder, [corpus], seconds=1, device="cuda")
    tried = {(one["batch_tokens"], one["workers"]) for one in found.sweep}
    # A decoder's rows come and go on one thread; the default budget is among the settings.
    assert tried <= {(4096, 1), (16384, 1), (room.GPU_TOKENS, 1)}
    assert len(tried) >= 2
    assert kept.gpu == "H100"
    assert kept == tuned.load(folder, "cuda")
    assert tuned.load(folder) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("45s", 45), ("2m", 120), ("3 MIN", 180), ("1h", 3600)]
)
def test_a_duration_may_have_a_unit(text: str, expected: int) -> None:
    assert numbers.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5m", "2d", "m", "1e3"])
def test_what_is_no_duration_is_refused(folder: Path, text: str) -> None:
    said = CliRunner().invoke(app, ["tune", str(folder), "--seconds", text])
    assert isinstance(said.exception, SettingsError)
    assert "is not a duration, such as 90, 90s or 2m" in said.exception.message


def test_a_gpu_that_is_not_there_is_refused(folder: Path, corpus: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:77 was asked for"):
        tune(folder, [corpus], device="cuda:77")


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / tuned.FILES["cpu"]).write_text("{")
    with pytest.raises(BundleError, match=r"tuned\.json") as caught:
        tuned.load(folder)
    assert "engine tune" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        tuned.save(folder, found())


def test_what_cannot_be_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no input"):
        tune(folder, text=("body",))
    with pytest.raises(SettingsError, match="seconds"):
        tune(folder, seconds=0)
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        tune(folder, ["nowhere.jsonl"], seconds=1)


def test_a_column_that_is_not_there_is_refused_before_anything_is_loaded(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "Loaded", lambda *given: pytest.fail("it was loaded"))
    with pytest.raises(ColumnError, match="body"):
        tune(folder, [corpus], text=("body",), seconds=1)


class Machine:
    """In the place of a machine: loading and runs take as long as it says, by a clock of its own.

    Attributes:
        load: Seconds to load a bundle.
        row: Seconds for a row by batch tokens and workers.
        busy: How much slower it is at a second of the clock.
    """

    def __init__(
        self, load: float, row: Callable[[int, int], float], busy: Callable[[float], float]
    ) -> None:
        self.load, self.row, self.busy, self.now = load, row, busy, 0.0
        self.order: list[tuple[int, int, int]] = []

    def open(self, *given: object, **more: object) -> None:
        self.now += self.load * self.busy(self.now)

    def run(
        self, model: object, file: Path, out: Path, *, batch_tokens: int, workers: int, limit: int,
        **more: object,
    ) -> engine.Report:  # fmt: skip
        rows = pa.ipc.open_file(str(file)).read_all().num_rows
        rows = min(limit or rows, rows)
        self.order.append((batch_tokens, workers, rows))
        self.now += (0.05 + rows * self.row(batch_tokens, workers)) * self.busy(self.now)
        return engine.Report(
            out="", task="translation", device="cpu", rows_in=rows, rows_out=rows,
            rows_rejected=0, tokens=rows * 20, truncated=0, output_tokens=0, splits=1,
            splits_skipped=0, rows_computed=rows, padded_tokens=0, seconds=1.0,
            rows_per_second=1.0, tokens_per_second=1.0, padding=1.0, stage_seconds={},
        )  # fmt: skip


@pytest.fixture
def tuned_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tune on a machine: its settings, what was measured, what was said, the seconds it took."""

    def measure(machine: Machine, seconds: int) -> Any:
        clock = SimpleNamespace(perf_counter=lambda: machine.now)
        monkeypatch.setattr(measuring, "time", clock)
        monkeypatch.setattr(room, "time", clock)
        monkeypatch.setattr(measuring, "Bundle", SimpleNamespace(load=machine.open))
        monkeypatch.setattr(measuring.coordinator, "run", machine.run)
        monkeypatch.setattr(room.hardware, "cores", lambda: 2)
        said: list[str] = []
        kept, found = tune(folder, seconds=seconds, progress=said.append)
        return SimpleNamespace(kept=kept, found=found, said="\n".join(said), took=machine.now)

    return measure


STEADY: Callable[[float], float] = lambda now: 1.0  # noqa: E731  # one of several such functions
MACHINES = {
    "steady": STEADY,
    "noisy": lambda now: 1 + 0.1 * math.sin(997 * now),
    "slower after a while": lambda now: 1.0 if now < 20 else 1.5,
    "faster after a while": lambda now: 1.0 if now < 20 else 0.7,
    "waves": lambda now: 1.5 if now % 14 < 5 else 1.0,
}


@pytest.mark.parametrize("seconds", [30, 60, 300])
@pytest.mark.parametrize("row", [0.0005, 0.005, 0.02])
@pytest.mark.parametrize("busy", MACHINES)
def test_it_takes_the_time_that_was_promised(
    tuned_on: Any, busy: str, row: float, seconds: int
) -> None:
    ended = tuned_on(Machine(1.5, lambda tokens, workers: row, MACHINES[busy]), seconds)
    assert f" {seconds} s in all" in ended.said
    assert ended.took == pytest.approx(seconds, rel=0.2)


def test_a_model_that_loads_for_longer_than_that_is_said_to_take_longer(tuned_on: Any) -> None:
    ended = tuned_on(Machine(20.0, lambda tokens, workers: 0.01, STEADY), 10)
    assert "note: 10 s are too few to compare two settings" in ended.said
    promised = int(ended.said.partition(" s in all")[0].rpartition(" ")[2])
    assert ended.took == pytest.approx(promised, rel=0.2)


def test_a_slow_model_is_tried_with_the_settings_there_is_time_for(tuned_on: Any) -> None:
    machine = Machine(1.0, lambda tokens, workers: 0.5, STEADY)
    ended = tuned_on(machine, 120)
    assert len({order[:2] for order in machine.order}) == len(ended.found.sweep) == 2
    assert "the settings farthest from the defaults are left out" in ended.said
    assert "rows to fill; --seconds" in ended.said
    assert ended.took == pytest.approx(120, rel=0.2)


def test_settings_take_turns_over_the_same_rows(tuned_on: Any) -> None:
    machine = Machine(1.0, lambda tokens, workers: 0.001, STEADY)
    ended = tuned_on(machine, 60)
    settings = len(ended.found.sweep)
    rounds = [order for order in machine.order if order[2] == ended.found.rows]
    assert len(ended.found.sweep[0]["rounds"]) >= trials.ROUNDS - 1
    first, second = rounds[:settings], rounds[settings : 2 * settings]
    assert len(set(first)) == settings
    assert second == first[::-1]
    assert ended.found.rows >= 64


def test_what_is_faster_in_every_round_is_kept(tuned_on: Any) -> None:
    def row(tokens: int, workers: int) -> float:
        return 0.001 if (tokens, workers) == (512, 2) else 0.0013

    ended = tuned_on(Machine(1.0, row, MACHINES["noisy"]), 120)
    assert (ended.kept.batch_tokens, ended.kept.workers) == (512, 2)
    assert ended.kept.speed == pytest.approx(1.3, rel=0.08)
    (faster,) = (one for one in ended.found.sweep if one["difference"] == "faster")
    assert faster["ratio"] == ended.kept.speed


def test_the_defaults_stay_where_nothing_is_faster_by_more_than_rounds_differ(
    tuned_on: Any,
) -> None:
    def row(tokens: int, workers: int) -> float:
        return 0.00102 if (tokens, workers) == (1024, 2) else 0.001

    ended = tuned_on(Machine(1.0, row, MACHINES["noisy"]), 120)
    assert (ended.kept.batch_tokens, ended.kept.workers, ended.kept.speed) == (1024, 2, 1.0)
    assert {one["difference"] for one in ended.found.sweep} == {"default", "no difference"}


def test_the_table_shows_spread_and_difference(folder: Path, corpus: Path) -> None:
    said = CliRunner().invoke(app, ["tune", str(folder), str(corpus), "--seconds", "1"])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    (head,) = (line for line in lines if "rows/s" in line)
    assert head.split() == [
        "tokens", "workers", "threads", "rows/s", "from", "to", "ratio"
    ]  # fmt: skip
    table = [line for line in lines if line.rstrip().endswith(("default", "faster", "slower",
                                                               "no difference"))]  # fmt: skip
    assert len(table) >= 2
    assert sum(line.startswith("*") for line in table) == 1
    assert " rows (" in lines[0]
    assert " s in all" in said.stderr
