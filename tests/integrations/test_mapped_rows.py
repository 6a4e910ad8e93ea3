"""Tables as mappers return them: every given row, in its order, with an answer or a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.demo import BUNDLE
from engine.errors import BundleError, ColumnError, SettingsError
from engine.integrations.mapped_rows import REJECT, MapSettings, check_there, schema, whole

TEXTS = pa.table(
    {"id": pa.array([7, 8, 9], pa.int64()), "text": ["cinco", None, "veinte"], "n": [0.5, 1.5, 2.5]}
)


def answered(table: pa.Table, bad: list[int]) -> Any:
    """Answers that are row numbers as text; every bad row is said to have a null."""
    good = np.setdiff1d(np.arange(len(table)), bad)
    rejects = pa.table(
        {
            "row": pa.array(bad, pa.int64()),
            "column": pa.array(["text"] * len(bad), pa.string()),
            "code": pa.array(["null_text"] * len(bad), pa.string()),
            "message": pa.array([f"row {row}" for row in bad], pa.string()),
        }
    )
    lists = pa.array([[{"n": i}] for i in good.tolist()], pa.list_(pa.struct([("n", pa.int64())])))
    results = pa.table({"text_of": pa.array(good.astype(str).tolist(), pa.string()), "all": lists})
    return SimpleNamespace(table=results, rejects=rejects)


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1))
       if n else st.just(set[int]()))))  # fmt: skip
def test_every_row_has_its_own_answer_or_reason(rows_and_bad: tuple[int, set[int]]) -> None:
    rows, bad = rows_and_bad
    table = pa.table({"id": pa.array(range(rows), pa.int64())})
    result = whole(table, answered(table, sorted(bad)), MapSettings.of({}))
    assert result.column_names == ["id", "text_of", "all", "reject"]
    assert result.to_pylist() == [
        {"id": row, "text_of": None, "all": None,
         "reject": {"column": "text", "code": "null_text", "message": f"row {row}"}}
        if row in bad
        else {"id": row, "text_of": str(row), "all": [{"n": row}], "reject": None}
        for row in range(rows)
    ]  # fmt: skip


def test_the_kept_columns_are_those_asked_for_in_that_order() -> None:
    settings = MapSettings.of({"keep": ["n", "id"], "on_error": "fail", "result_prefix": "my_"})
    result = whole(TEXTS, answered(TEXTS, []), settings)
    assert result.column_names == ["n", "id", "my_text_of", "my_all"]
    nothing = whole(TEXTS, answered(TEXTS, [1]), MapSettings.of({"keep": []}))
    assert nothing.column_names == ["text_of", "all", "reject"]
    assert nothing.column("reject").null_count == 2
    one = whole(TEXTS, answered(TEXTS, []), MapSettings.of({"keep": "id", "reject_column": "why"}))
    assert one.column_names == ["id", "text_of", "all", "why"]
    assert one.column("why").type == REJECT


@pytest.mark.parametrize("taken", ["text_of", "reject"])
def test_a_given_column_with_the_name_of_a_result_is_refused_and_the_hint_is_true(
    taken: str,
) -> None:
    table = TEXTS.append_column(taken, pa.array([1, 2, 3]))
    with pytest.raises(ColumnError, match=f"a column '{taken}', which is also") as error:
        whole(table, answered(table, []), MapSettings.of({}))
    assert f"leave '{taken}' out" in error.value.hint
    whole(table, answered(table, []), MapSettings.of({"keep": "id"}))
    other = {"result_prefix": "predicted_"} if taken == "text_of" else {"reject_column": "why"}
    names = whole(table, answered(table, []), MapSettings.of(other)).column_names
    assert len(names) == len(set(names)) == 7


def test_a_column_to_keep_that_is_not_there_is_refused() -> None:
    with pytest.raises(ColumnError, match="keep names column 'key'") as error:
        whole(TEXTS, answered(TEXTS, []), MapSettings.of({"keep": ["key"]}))
    assert error.value.hint == "they have: id, text, n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"on_error": "skip"}, "on_error is 'skip'", "one of: fail, reject"),
        ({"keep": 5}, r"keep is \(5,\)", "column names"),
        ({"text": [1]}, r"text is \(1,\)", "column names"),
        ({"reject_column": ""}, "reject_column is ''", "a name for the column"),
        ({"result_prefix": 1}, "result_prefix is 1", "a text"),
        ({"batch_tokens": -1}, "batch_tokens is -1", "0 or more"),
    ],
)
def test_a_malformed_setting_is_refused(arguments: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        MapSettings.of(arguments)
    assert hint in error.value.hint


def test_what_is_no_setting_of_a_mapper_is_an_option_of_the_task() -> None:
    settings = MapSettings.of({"text": "body", "batch_tokens": 64, "num_beams": 2})
    assert settings.answering == {
        "text": ("body",), "on_error": "reject", "batch_tokens": 64, "dedupe": True,
        "max_length": 0, "truncation_side": "", "num_beams": 2,
    }  # fmt: skip


def test_the_schema_is_that_of_the_rows() -> None:
    bundle = engine.Bundle.load(BUNDLE, device="cpu", threads=1)
    for arguments in ({}, {"keep": "id", "return_scores": True, "on_error": "fail"}):
        settings = MapSettings.of(arguments)
        given = TEXTS if settings.rejects else TEXTS.filter(TEXTS["text"].is_valid())
        rows = whole(given, bundle.answer(given, **settings.answering), settings)
        assert rows.schema == schema(BUNDLE, given.schema, settings)
        assert rows.num_rows == given.num_rows
    with pytest.raises(SettingsError, match="beam"):
        schema(BUNDLE, TEXTS.schema, MapSettings.of({"beams": 2}))


def test_a_bundle_that_a_machine_lacks_is_named_with_the_machine() -> None:
    check_there(BUNDLE, "copy it")
    with pytest.raises(BundleError, match=r"/nowhere/minilm: no such bundle on \S+") as error:
        check_there("/nowhere/minilm", "copy it")
    assert error.value.hint == "copy it"
