"""The columns of answers are known before a model is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes import make_bundle, open_bundle

import engine
from engine.errors import BundleError, ColumnError, SettingsError

INPUT = pa.schema(
    {
        "text": pa.string(),
        "id": pa.int32(),
        "tag": pa.dictionary(pa.int8(), pa.string()),
        "when": pa.timestamp("us", "UTC"),
        "view": pa.string_view(),
        "none": pa.null(),
        "doc": pa.struct({"n": pa.int64()}),
    }
)
OPTIONS: dict[str, dict[str, Any]] = {
    "zero-shot-classification": {"candidate_labels": ("a", "b")},
    "translation": {"return_scores": True},
    "text-classification": {"top_k": 2},
}
TASKS = ("feature-extraction", "text-classification", "translation", "zero-shot-classification",
         "token-classification", "fill-mask")  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("keep", [(), "id", "all", "tag,_row,doc.n"])
def test_the_answers_have_the_schema(task: str, keep: str, tmp_path: Path) -> None:
    folder, options = make_bundle(tmp_path / "bundle", task), OPTIONS.get(task, {})
    bundle = open_bundle(folder)
    wanted = engine.schema(folder, INPUT, keep=keep, result_prefix="my_", **options)
    for table in (INPUT.empty_table(), pa.table({f.name: pa.nulls(1, f.type) for f in INPUT})):
        answered = bundle.answer(table, keep=keep, result_prefix="my_", **options)
        assert answered.table.schema.equals(wanted, check_metadata=True)
        assert engine.schema(bundle, table, keep=keep, result_prefix="my_", **options) == wanted


def test_what_answers_refuse_the_schema_refuses(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "text-classification")
    bundle = open_bundle(folder)
    for wrong in ({"text": "txt"}, {"keep": "x"}, {"topk": 1}, {"top_k": -1}, {"text": "id"}):
        with pytest.raises(SettingsError) as of_schema:
            engine.schema(folder, INPUT, **wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(SettingsError) as of_answers:
            bundle.answer(INPUT.empty_table(), **wrong)  # type: ignore[arg-type]  # likewise
        assert type(of_schema.value) is type(of_answers.value)
        assert of_schema.value.message == of_answers.value.message
    with pytest.raises(ColumnError, match="no column '_file'"):
        engine.schema(folder, INPUT, keep="_file")
    with pytest.raises(BundleError):
        engine.schema(tmp_path, INPUT)


def test_it_takes_all_settings_of_answers(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "translation")
    settings: dict[str, Any] = {
        "text": "view", "keep": "id", "result_prefix": "", "on_error": "fail", "batch_tokens": "64",
        "dedupe": False, "max_length": 8, "truncation_side": "left", "max_new_tokens": "4",
    }  # fmt: skip
    answered = open_bundle(folder).answer(INPUT.empty_table(), **settings)
    assert engine.schema(folder, INPUT, **settings) == answered.table.schema
    with pytest.raises(SettingsError, match="batch_tokens is -1"):
        engine.schema(folder, INPUT, batch_tokens=-1)


def test_schemas_of_other_libraries_are_taken(tmp_path: Path) -> None:
    class Schema:
        def __arrow_c_schema__(self) -> object:
            return INPUT.__arrow_c_schema__()

    class Frame:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return INPUT.empty_table().__arrow_c_stream__(requested_schema)

    folder = make_bundle(tmp_path / "bundle", "text-classification")
    wanted = engine.schema(folder, INPUT, keep="all")
    assert engine.schema(folder, Schema(), keep="all") == wanted
    assert engine.schema(str(folder), Frame(), keep="all") == wanted


def test_no_runtime_is_loaded(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "text-classification")
    code = (
        "import sys, pyarrow as pa, engine\n"
        f"print(engine.schema({str(folder)!r}, pa.schema({{'text': pa.string()}})).names)\n"
        "print([n for n in ('onnxruntime', 'torch', 'transformers') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["['label', 'score']", "[]"]
