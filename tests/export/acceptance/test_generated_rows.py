"""An export compares rows that it generates by its stored settings with the pipeline's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import checkpoint_of

from engine.bundle import format as bundle_format
from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from engine.export import export
from engine.export.checkpoint import generation_config


def _proof(folder: Path) -> Any:
    return bundle_format.load(folder).description.proof


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart", "nllb", "marian"])
def test_rows_are_compared(tmp_path: Path, family: str) -> None:
    make, task = checkpoints.GENERATORS[family]
    export(str(checkpoint_of(make)), tmp_path / "out", task=task)
    proof = _proof(tmp_path / "out")
    assert (proof["generated_rows"], proof["same_generated_rows"]) == (4, 4)


@pytest.mark.parametrize(
    "wrong",
    [{"num_beams": 1}, {"no_repeat_ngram_size": 0}, {"repetition_penalty": 1.9}],
    ids=str,
)
def test_a_setting_that_was_read_wrong_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    right = generation_config._search

    def misread(*arguments: Any) -> bundle_format.GenerationConfig:
        return dataclasses.replace(right(*arguments), **wrong)

    monkeypatch.setattr(generation_config, "_search", misread)
    with pytest.raises(ExportError, match="generated rows differ from those of transformers"):
        export(str(checkpoint_of(checkpoints.bart)), tmp_path / "out", task="summarization")
    assert not (tmp_path / "out").exists()


def test_rows_are_not_compared_where_a_setting_is_not_supported(tmp_path: Path) -> None:
    model = checkpoints.bart(tmp_path / "model")
    checkpoints.edit_json(model / "generation_config.json", renormalize_logits=True)
    export(str(model), tmp_path / "out", task="summarization")
    proof = _proof(tmp_path / "out")
    assert proof["generated_rows"] == 0
    assert "renormalize_logits=True" in proof["generated_rows_reason"]
