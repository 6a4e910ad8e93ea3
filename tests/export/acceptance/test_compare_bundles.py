"""The report of two bundles: figures, limits, size and speed, with bundles that are stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine.export.acceptance import gate, measures
from engine.export.acceptance.limits import BATCH_EFFECT, Limit
from engine.export.acceptance.sample import Sample
from engine.generation import StepTrace

ITEMS = tuple(f"text {n}" for n in range(20))


class FakeBundle:
    """Gives each text a score, `effect` more in a batch, and a little by its length."""

    def __init__(self, size: int, score: float, effect: float = 0.0, decoder: Any = None) -> None:
        self.score, self.effect = score, effect
        self.calls: list[tuple[int, dict[str, Any]]] = []
        config = SimpleNamespace(decoder=decoder, languages=None)
        files = {"model.onnx": {"bytes": size - 1}, "tokenizer.json": {"bytes": 1}}
        task = "text-generation" if decoder else "text-classification"
        description = SimpleNamespace(task=task, model_config=config, files=files)
        self.folder = SimpleNamespace(description=description)

    def __call__(self, items: Any, **options: Any) -> pa.Table:
        self.calls.append((len(items), options))
        if self.folder.description.model_config.decoder:
            return pa.table({"generated_text": [f"{item} {self.score}" for item in items]})
        batched = self.effect if len(items) > 1 else 0.0
        scores = [min(self.score + batched + len(item) / 1000, 1.0) for item in items]
        return pa.table(
            {"labels": [["a", "b"]] * len(items), "scores": [[s, 1 - s] for s in scores]}
        )


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeBundle]:
    loaded: dict[str, FakeBundle] = {}

    def load(path: Path, device: str) -> FakeBundle:
        assert device == "cpu"
        return loaded[path.name]

    monkeypatch.setattr(gate.Bundle, "load", load)
    return loaded


def compare(*limits: Limit, rejected: int = 0) -> gate.GateReport:
    sample = Sample(ITEMS, "mine", rejected)
    return gate.compare_bundles(Path("plain"), Path("rewritten"), limits, sample)


def test_a_report_has_figures_size_and_where_the_rows_come_from(
    bundles: dict[str, FakeBundle],
) -> None:
    bundles |= {"plain": FakeBundle(400, 0.9), "rewritten": FakeBundle(100, 0.8, effect=0.05)}
    report = compare(Limit("mean score shift", 0.06, is_maximum=True), rejected=3)
    assert (report.sample, report.rows, report.rejected) == ("mine", 20, 3)
    assert report.size == 0.25
    assert report.figures["same label"] == gate.Figure(1.0, None, True)
    shift = report.figures["mean score shift"]
    assert (shift.value, shift.limit, shift.holds) == (pytest.approx(0.05), 0.06, True)
    # Of the rewritten bundle, 16 rows alone.
    assert report.figures[BATCH_EFFECT].value == pytest.approx(0.05)
    assert [rows for rows, _ in bundles["rewritten"].calls].count(1) == 16
    assert 1 not in [rows for rows, _ in bundles["plain"].calls]
    assert all(options == {"top_k": 0} for _, options in bundles["plain"].calls)
    assert report.passed
    assert not report.forced


def test_one_figure_beyond_its_limit_fails_the_report(bundles: dict[str, FakeBundle]) -> None:
    bundles |= {"plain": FakeBundle(400, 0.9), "rewritten": FakeBundle(100, 0.8)}
    report = compare(
        Limit("same label", 1.0), Limit("mean score shift", 0.06, is_maximum=True), Limit("?", 9)
    )
    assert [name for name, figure in report.figures.items() if not figure.holds] == [
        "mean score shift"
    ]
    assert not report.passed
    assert "?" not in report.figures


def test_a_figure_of_nan_fails(bundles: dict[str, FakeBundle]) -> None:
    bundles |= {"plain": FakeBundle(4, 0.9), "rewritten": FakeBundle(4, float("nan"))}
    assert not compare(Limit("mean score shift", 0.5, is_maximum=True)).passed


def test_the_speed_is_the_median_of_alternating_rounds(
    bundles: dict[str, FakeBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles |= {"plain": FakeBundle(4, 0.9), "rewritten": FakeBundle(4, 0.9)}
    seconds = {"plain": iter([1.0, 8.0, 3.0]), "rewritten": iter([1.0, 2.0, 2.0])}
    order = []

    def timed(model: Any, sample: Sample, options: Any) -> float:
        order.append(next(name for name, bundle in bundles.items() if bundle is model))
        return next(seconds[order[-1]])

    monkeypatch.setattr(gate, "_seconds", timed)
    assert compare().speed == 1.5
    assert order == ["plain", "rewritten"] * 3


def test_no_round_begins_after_a_minute(
    bundles: dict[str, FakeBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles |= {"plain": FakeBundle(4, 0.9), "rewritten": FakeBundle(4, 0.9)}
    # Before the first round, and before each further one.
    clock = iter([10.0, 69.0, 71.0])
    monkeypatch.setattr(gate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    runs: list[Any] = []
    monkeypatch.setattr(gate, "_seconds", lambda model, *_: runs.append(model) or 1.0)
    compare()
    assert len(runs) == 2 * 2


def test_seconds_are_those_of_a_run_over_the_whole_sample(
    bundles: dict[str, FakeBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = FakeBundle(4, 0.9)
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(gate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert gate._seconds(bundle, Sample(ITEMS, "mine"), {"top_k": 0}) == 2.5
    assert bundle.calls == [(20, {"top_k": 0})]


def test_a_decoder_is_also_forced_along_the_fp32_answers(
    bundles: dict[str, FakeBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles |= {
        "plain": FakeBundle(4, 1, decoder=True),
        "rewritten": FakeBundle(4, 2, decoder=True),
    }
    own = StepTrace(np.array([[5, 6]]), np.array([2]), np.full((1, 2), 9, np.float32))
    forced = StepTrace(np.array([[5, 7]]), np.array([2]), np.zeros((1, 2), np.float32))

    def trace(model: Any, items: Any, *, along: StepTrace | None = None) -> StepTrace:
        assert tuple(items) == ITEMS
        assert (along is own) == (model is bundles["rewritten"])
        return forced if along else own

    monkeypatch.setattr(gate, "trace_steps", trace)
    report = compare(Limit("same top token where fp32 is sure", 0.6))
    assert report.figures["same top token"].value == 0.5
    assert report.figures["same top token where fp32 is sure"] == gate.Figure(0.5, 0.6, False)
    assert report.figures["same answer"].value == 0
    _, options = bundles["plain"].calls[0]
    assert options["num_beams"] == 1
    assert options["do_sample"] is False


def test_steps_are_traced_over_padded_rows_as_over_each_alone() -> None:
    pytest.importorskip("onnxruntime")
    bundle = gate.Bundle.load(Path(engine.__file__).parent / "demo/bundle", device="cpu")
    texts = ["dos mil quinientos treinta y cuatro", "tres", "cuarenta y dos"]
    batched = gate.trace_steps(bundle, texts, steps=12)
    assert len(set(batched.lengths)) > 1
    for row, text in enumerate(texts):
        alone = gate.trace_steps(bundle, [text], steps=12)
        length = int(alone.lengths[0])
        assert batched.lengths[row] == length
        assert batched.tokens[row, :length].tolist() == alone.tokens[0, :length].tolist()
        np.testing.assert_allclose(
            batched.margins[row, :length], alone.margins[0, :length], atol=1e-3
        )
    # Along its own answers a bundle prefers its own tokens.
    forced = gate.trace_steps(bundle, texts, steps=12, along=batched)
    figures = measures.compare_steps(batched, forced)
    assert figures["same top token"] == 1
    assert gate.trace_steps(bundle, texts, steps=2).tokens.shape[1] == 2
