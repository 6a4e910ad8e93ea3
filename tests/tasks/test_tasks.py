"""Poolings, scores and columns of the tasks against plain arithmetic and the pipelines' rules."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import (
    LABELS,
    MODEL_CONFIGS,
    FakeBackend,
    ids_of,
    make_bundle,
    open_bundle,
    texts,
)

import engine
from engine import tasks
from engine.bundle.format import GenerationConfig, ModelConfig
from engine.core.config import RunSettings
from engine.core.keywords import TaskOptions
from engine.core.settings import declared, option
from engine.core.types import Column, Encoded, Ragged, Rows
from engine.errors import BundleError, SettingsError
from engine.tasks import TASKS, Context, Task
from engine.tasks.pooling import POOLINGS
from engine.tasks.task import encode_texts
from engine.tasks.text_classification import FUNCTIONS, sigmoid, softmax

calm = settings(deadline=None, max_examples=60)
FEATURES, CLASSES, TRANSLATION = (
    TASKS[name] for name in ("feature-extraction", "text-classification", "translation")
)


def context(
    task: Task, model_config: ModelConfig | None = None, tokenizer: Any = None, **options: object
) -> Context:
    model_config = model_config or MODEL_CONFIGS[task.name]
    return Context(
        model_config,
        tasks.resolve_options(task, model_config, options),
        tokenizer,
        True,
        lambda: False,
    )


def window(rows: int) -> Encoded:
    """A window of that many texts of one token."""
    given = Rows(None, (pa.array(["w1"] * rows),))
    ids = Ragged.of(np.ones(rows, np.int64), np.ones(rows, np.int64))
    return Encoded.one_each(given, ids, None, np.zeros(rows, np.bool_))


# feature-extraction

states = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.lists(
                st.lists(st.integers(-9, 9), min_size=3, max_size=3),
                min_size=width,
                max_size=width,
            ),
            st.integers(0, width),
        ),
        min_size=1,
        max_size=5,
    )
)


@calm
@given(states)
def test_poolings_are_what_plain_arithmetic_says(
    rows: list[tuple[list[list[int]], int]],
) -> None:
    hidden = np.array([row for row, _ in rows], np.float32)
    width = hidden.shape[1]
    mask = (np.arange(width) < np.array([n for _, n in rows])[:, None]).astype(np.int64)
    pooled = {name: pool(hidden, mask) for name, pool in POOLINGS.items()}
    for i, (row, real) in enumerate(rows):
        means = [sum(state[d] for state in row[:real]) / max(real, 1) for d in range(3)]
        assert pooled["mean"][i].tolist() == pytest.approx(means, abs=1e-6)
        assert pooled["cls"][i].tolist() == row[0]
        assert pooled["last"][i].tolist() == row[max(real - 1, 0)]
        roots = [mean * math.sqrt(real) for mean in means]
        assert pooled["mean_sqrt_len_tokens"][i].tolist() == pytest.approx(roots, abs=1e-5)
        total = max(real * (real + 1) / 2, 1)
        ranked = [sum(n * s[d] for n, s in enumerate(row[:real], 1)) / total for d in range(3)]
        assert pooled["weightedmean"][i].tolist() == pytest.approx(ranked, abs=1e-5)
    for name, found in pooled.items():
        wider = np.concatenate([hidden, np.full_like(hidden[:, :1], 7777.0)], axis=1)
        more = np.concatenate([mask, np.zeros_like(mask[:, :1])], axis=1)
        assert found.dtype == np.float32
        assert np.array_equal(POOLINGS[name](wider, more), found), f"{name} looks at padding"


@calm
@given(states)
def test_max_pooling_is_the_highest_real_value(
    rows: list[tuple[list[list[int]], int]],
) -> None:
    hidden = np.array([row for row, _ in rows], np.float32)
    mask = (np.arange(hidden.shape[1]) < np.array([n for _, n in rows])[:, None]).astype(np.int64)
    for i, (row, real) in enumerate(rows):
        wanted = [max((state[d] for state in row[:real]), default=-1e9) for d in range(3)]
        assert POOLINGS["max"](hidden, mask)[i].tolist() == wanted


def embed(row: list[float], *, normalize: bool, dimensions: int = 0) -> list[float]:
    backend, feeds = FakeBackend(), {"input_ids": np.ones((1, 1), np.int64)}
    feeds["attention_mask"] = feeds["input_ids"]
    model_config = ModelConfig(8, dimensions=len(row))
    made = context(
        FEATURES, model_config, pooling="cls", normalize=normalize, dimensions=dimensions
    )

    class One(FakeBackend):
        def host(self, value: object) -> np.ndarray:
            return np.array([[row]], np.float32)

    backend = One()
    found = FEATURES.infer(backend, feeds, made)["embedding"]
    return np.asarray(found)[0].tolist()


@calm
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6))
def test_normalize_scales_to_length_1_and_leaves_zero_alone(row: list[float]) -> None:
    length = math.sqrt(sum(v * v for v in row))
    assert embed(row, normalize=False) == row
    expected = [v / max(length, 1e-12) for v in row]
    assert embed(row, normalize=True) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_an_embedding_is_a_fixed_size_list_of_floats() -> None:
    made = context(FEATURES)
    (column,) = FEATURES.postprocess(window(4), {"embedding": np.ones((4, 6), np.float64)}, made)
    assert column.type == pa.list_(pa.float32(), 6)
    assert column.type == FEATURES.schema(made.model_config, made.options).field("embedding").type
    assert len(column) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_embeddings_are_stored_as_asked(dtype: str) -> None:
    drawn = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    made = context(FEATURES, dtype=dtype)
    columns = FEATURES.postprocess(window(50), {"embedding": drawn}, made)
    assert [c.type for c in columns] == FEATURES.schema(made.model_config, made.options).types
    found = np.stack(columns[0].to_numpy(zero_copy_only=False))
    if dtype == "binary":
        assert np.array_equal(np.unpackbits(found, axis=1)[:, :6], drawn > 0)
        return
    scale = columns[1].to_numpy()[:, None] if dtype == "int8" else 1
    allowed = {"float32": 0, "float16": 2e-3, "int8": np.abs(drawn).max() / 127}[dtype]
    assert np.abs(found * scale - drawn).max() <= allowed


def test_an_int8_row_of_zeros_stays_zeros() -> None:
    columns = FEATURES.postprocess(
        window(1), {"embedding": np.zeros((1, 6), np.float32)}, context(FEATURES, dtype="int8")
    )
    assert columns[0].to_pylist() == [[0] * 6]


def test_pooling_none_gives_every_tokens_state() -> None:
    model_config = MODEL_CONFIGS["feature-extraction"]
    made = context(FEATURES, model_config, pooling="none", dtype="float16")
    states = Ragged.of(np.arange(18, dtype=np.float32).reshape(3, 6), np.array([1, 0, 2]))
    (column,) = FEATURES.postprocess(window(3), {"embedding": states}, made)
    assert column.type == FEATURES.schema(made.model_config, made.options).field("embedding").type
    assert [len(row) for row in column.to_pylist()] == [1, 0, 2]
    with pytest.raises(SettingsError, match="pooling none"):
        context(FEATURES, model_config, pooling="none", dtype="int8")


def test_fewer_dimensions_are_scaled_to_length_1_again() -> None:
    found = np.array(embed([3.0, 4.0, 12.0], normalize=True, dimensions=2))
    assert found.tolist() == pytest.approx([0.6, 0.8])


def test_pooling_and_normalize_default_to_the_checkpoints() -> None:
    plain = {"dimensions": 0, "dtype": "float32", "prompt": ""}
    plain |= {"chunk": "none", "chunk_size": 0, "overlap": 0, "chunk_mean": False}
    plain |= {"strip": False}
    assert FEATURES.defaults(ModelConfig(8)) == {
        "pooling": "mean", "normalize": False, "prefix": "", **plain
    }  # fmt: skip
    model_config = ModelConfig(8, pooling="cls", normalize=True, prefix="query: ")
    assert FEATURES.defaults(model_config) == {
        "pooling": "cls", "normalize": True, "prefix": "query: ", **plain
    }  # fmt: skip
    assert context(FEATURES, model_config, pooling="last").options.pooling == "last"


# text-classification

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=6)


@calm
@given(logits)
def test_softmax_and_sigmoid_are_what_math_says(row: list[float]) -> None:
    powers = [math.exp(v) for v in row]
    given = np.array([row], np.float32)
    assert softmax(given)[0].tolist() == pytest.approx(
        [p / sum(powers) for p in powers], rel=1e-4, abs=1e-7
    )
    assert sigmoid(given)[0].tolist() == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in row], rel=1e-4, abs=1e-6
    )
    assert softmax(given).dtype == sigmoid(given).dtype == np.float32


def test_scores_do_not_overflow() -> None:
    extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert softmax(extreme)[0].tolist() == [1.0, 0.0, 0.0]
        assert softmax(extreme)[1].tolist() == pytest.approx([1 / 3] * 3)
        assert sigmoid(extreme)[0].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("problem_type", "labels", "function"),
    [
        ("regression", 1, "none"),
        ("regression", 3, "none"),
        ("multi_label_classification", 3, "sigmoid"),
        ("multi_label_classification", 1, "sigmoid"),
        ("single_label_classification", 1, "sigmoid"),
        ("single_label_classification", 2, "softmax"),
        ("", 1, "sigmoid"),
        ("", 2, "softmax"),
    ],
)
def test_the_function_is_chosen_as_the_transformers_pipeline_does(
    problem_type: str, labels: int, function: str
) -> None:
    model_config = ModelConfig(
        8, labels=tuple(f"L{i}" for i in range(labels)), problem_type=problem_type
    )
    assert context(CLASSES, model_config).options.function_to_apply == function
    assert (
        context(CLASSES, model_config, function_to_apply="none").options.function_to_apply == "none"
    )


@calm
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=8),
    st.sampled_from([0, 1, 2, 3, 9]),
)
def test_top_k_gives_the_best_labels_first_and_ties_in_label_order(
    rows: list[list[int]], top_k: int
) -> None:
    made = context(CLASSES, top_k=top_k)
    columns = CLASSES.postprocess(window(len(rows)), {"scores": np.array(rows, np.float32)}, made)
    schema = CLASSES.schema(made.model_config, made.options)
    assert [c.type for c in columns] == [field.type for field in schema]
    labels, scores = (c.to_pylist() for c in columns)
    for i, row in enumerate(rows):
        # transformers: dict_scores.sort(key=score, reverse=True), which keeps ties in their order
        best = sorted(range(3), key=lambda label: row[label], reverse=True)[: top_k or None]
        names, values = [LABELS[b] for b in best], [float(row[b]) for b in best]
        if top_k == 1:
            assert (labels[i], scores[i]) == (names[0], values[0])
        else:
            assert (labels[i], scores[i]) == (names, values)
    assert schema.names == (["label", "score"] if top_k == 1 else ["labels", "scores"])


def test_infer_applies_the_function_to_the_logits() -> None:
    ids = np.array([[5, 6, 1], [7, 1, 0]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    raw = np.asarray(
        CLASSES.infer(FakeBackend(), feeds, context(CLASSES, function_to_apply="none"))["scores"]
    )
    for name, function in FUNCTIONS.items():
        made = context(CLASSES, function_to_apply=name)
        found = np.asarray(CLASSES.infer(FakeBackend(), feeds, made)["scores"])
        assert np.array_equal(found, function(raw))


# translation


def test_a_prefix_goes_before_every_text() -> None:
    seen: list[str] = []

    class Seeing:
        def encode(self, texts: tuple[pa.StringArray, ...], *, type_ids: bool, prefix: str) -> Any:
            (column,) = texts
            seen.extend(prefix + text for text in column.to_pylist())
            empty = Ragged.of(np.empty(0, np.int64), np.zeros(len(column), np.int64))
            return empty, None, np.zeros(len(column), np.bool_)

    made = context(TRANSLATION, tokenizer=Seeing(), prefix="say: ")
    TRANSLATION.encode(Rows(None, (pa.array(["w1", "", "w2"]),)), made)
    assert seen == ["say: w1", "say: ", "say: w2"]


def test_answers_carry_their_tokens_and_why_they_ended() -> None:
    class Counting:
        def decode(self, tokens: Ragged) -> pa.StringArray:
            return pa.array([str(n) for n in tokens.lengths])

    made = context(TRANSLATION, tokenizer=Counting())
    tokens = Ragged.of(np.array([3, 4, 1, 5]), np.array([3, 1]))
    ended, lengths = np.array([[True], [False]]), np.array([[3], [1]])
    arrays = {"tokens": tokens, "ended": ended, "lengths": lengths}
    columns = TRANSLATION.postprocess(window(2), arrays, made)
    schema = TRANSLATION.schema(made.model_config, made.options)
    found = pa.RecordBatch.from_arrays(columns, schema=schema).to_pylist()
    assert found == [
        {"translation_text": "3", "output_tokens": 3, "finish_reason": "stop"},
        {"translation_text": "1", "output_tokens": 1, "finish_reason": "length"},
    ]


@pytest.mark.parametrize(
    ("start", "limit", "most"),
    [(0, 0, 8), (0, 5, 5), (0, 9, 8), (-1, 9, 8), (-1, 8, 4), (-1, 1, 1)],
)
def test_new_tokens_fit_the_positions_unless_the_person_says_otherwise(
    start: int, limit: int, most: int
) -> None:
    generation = dataclasses.replace(MODEL_CONFIGS["translation"].decoder, start_id=start)
    model_config = ModelConfig(8, position_limit=limit, decoder=generation)
    assert TRANSLATION.defaults(model_config)["max_new_tokens"] == most


def test_translation_without_decoder_settings_is_a_damaged_bundle() -> None:
    with pytest.raises(BundleError, match="no decoder settings"):
        tasks.resolve_options(TRANSLATION, ModelConfig(8), {})


# the table


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_option_has_a_default_and_is_told_of(task: Task) -> None:
    names = {field.name for field in dataclasses.fields(task.options)}
    assert set(task.defaults(MODEL_CONFIGS[task.name])) == names
    for _, setting in declared(task.options).values():
        assert setting.help
        assert all(choice in setting.help for choice in setting.choices)
    for column in task.schema(context(task).model_config, context(task).options).names:
        assert re.search(rf"\b{column}\b", task.result), column


def test_every_option_is_a_typed_keyword_argument() -> None:
    types = {"tuple[str, ...]": "str | Sequence[str]"}
    fields = {
        name: types.get(kind, kind)
        for task in TASKS.values()
        for name, (kind, _) in declared(task.options).items()
    }
    fields["stop"] += " | Event"  # which is taken before the options are read
    assert fields == {n: t.__forward_arg__ for n, t in TaskOptions.__annotations__.items()}
    assert not fields.keys() & RunSettings.__annotations__.keys()
    run = inspect.signature(engine.run).parameters["settings"]
    assert run.annotation == "Unpack[RunArguments]"
    call = inspect.signature(engine.Bundle.__call__).parameters["options"]
    assert call.annotation == "Unpack[TaskOptions]"


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_an_unknown_option_is_refused_by_name_with_the_nearest(task: Task) -> None:
    model_config = MODEL_CONFIGS[task.name]
    for name, value in task.defaults(model_config).items():
        with pytest.raises(SettingsError) as caught:
            tasks.resolve_options(task, model_config, {name + "x": value})
        assert repr(name + "x") in caught.value.message
        assert f"did you mean {name!r}?" in caught.value.hint
        assert task.name in caught.value.message


@pytest.mark.parametrize(
    ("task", "option", "value"),
    [
        (FEATURES, "pooling", "sum"),
        (FEATURES, "dimensions", -1),
        (FEATURES, "dtype", "int4"),
        (FEATURES, "prompt", None),
        (FEATURES, "pooling", None),
        (FEATURES, "normalize", "perhaps"),
        (CLASSES, "top_k", -1),
        (CLASSES, "top_k", 1.5),
        (CLASSES, "top_k", True),
        (CLASSES, "top_k", None),
        (CLASSES, "function_to_apply", "relu"),
        (TRANSLATION, "max_new_tokens", 0),
        (TRANSLATION, "max_new_tokens", "0"),
        (TRANSLATION, "max_new_tokens", "9 tokens"),
        (TRANSLATION, "max_new_tokens", "1.5"),
        (TRANSLATION, "max_new_tokens", "x+x"),
        (TRANSLATION, "max_new_tokens", ""),
        (TRANSLATION, "max_new_tokens", 9.0),
        (TRANSLATION, "prefix", 7),
        (TRANSLATION, "num_beams", 0),
        (TRANSLATION, "num_beams", 1025),
        (TRANSLATION, "length_penalty", "long"),
        (TRANSLATION, "length_penalty", float("nan")),
        (TRANSLATION, "early_stopping", "maybe"),
        (TRANSLATION, "repetition_penalty", 0.0),
        (TRANSLATION, "min_new_tokens", -1),
        (TRANSLATION, "min_new_tokens", "x9"),
        (TRANSLATION, "no_repeat_ngram_size", -1),
        (TRANSLATION, "stop", ("",)),
        (TRANSLATION, "stop", 7),
        (TRANSLATION, "src_lang", 7),
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_an_option_out_of_range_is_refused_by_name(task: Task, option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=option) as caught:
        tasks.resolve_options(task, MODEL_CONFIGS[task.name], {option: value})
    assert caught.value.hint


def test_what_is_given_wins_over_the_checkpoint() -> None:
    made = context(TRANSLATION, max_new_tokens=3)
    assert (made.options.max_new_tokens, made.options.prefix) == (3, "")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("feature-extraction", FEATURES),
        ("sentence-similarity", FEATURES),
        ("sentiment-analysis", CLASSES),
        ("translation", TRANSLATION),
        ("translation_en_to_de", TRANSLATION),
        ("translation_xx_to_yy", TRANSLATION),
    ],
)
def test_tasks_are_found_by_name_and_alias(name: str, task: Task) -> None:
    assert tasks.find(name) is task


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'text-classification'"):
        tasks.find("text-clasification")


# a tenth task


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountOptions:
    """Of the task below."""

    twice: bool = option("count every token twice")


def count(backend: Any, feeds: Any, made: Context) -> dict[str, np.ndarray]:
    return {"tokens_in": feeds["attention_mask"].sum(axis=1) * (1 + made.options.twice)}


COUNT = Task(
    name="token-count",
    aliases=("count",),
    summary="how many tokens a text has",
    inputs=(Column("text"),),
    batch_tokens=64,
    options=CountOptions,
    defaults=lambda model_config: {"twice": False},
    encode=encode_texts,
    infer=count,
    postprocess=lambda window, arrays, made: [pa.array(arrays["tokens_in"], pa.int32())],
    schema=lambda _, options: pa.schema([("tokens", pa.int32())]),
    result="tokens: int32",
)


def test_a_new_task_is_a_file_and_a_row_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.cli import options

    monkeypatch.setitem(TASKS, "token-count", COUNT)
    bundle = open_bundle(make_bundle(tmp_path / "bundle", "token-count", ModelConfig(32)))
    given = texts(40)
    wanted = [len(ids_of(text)) for text in given]
    assert bundle(given)["tokens"].to_pylist() == wanted
    assert bundle(given, twice=True)["tokens"].to_pylist() == [2 * n for n in wanted]
    assert "twice" in options._options()
    assert tasks.describe(COUNT)["options"][0]["help"] == "count every token twice"


# options beside defaults


def _defaults_of(task: Task, **search: Any) -> ModelConfig:
    """A model configuration of a task whose checkpoint has these settings."""
    model_config = MODEL_CONFIGS[task.name]
    assert model_config.decoder is not None
    limits = {n: search.pop(n) for n in ("max_new_tokens",) if n in search}
    decoder = dataclasses.replace(model_config.decoder, search=GenerationConfig(**search), **limits)
    return dataclasses.replace(model_config, decoder=decoder)


@pytest.mark.parametrize(
    ("checkpoint", "given", "then"),
    [
        ({"do_sample": True}, {"num_beams": 2}, {"do_sample": False, "num_beams": 2}),
        ({"do_sample": True}, {"num_beams": 1}, {"do_sample": True}),
        ({"num_beams": 4}, {"do_sample": True}, {"do_sample": True, "num_beams": 1}),
        ({"num_beams": 4}, {"do_sample": False}, {"num_beams": 4}),
        ({"num_beams": 4}, {"top_k": 3}, {"num_beams": 4, "do_sample": False, "top_k": 3}),
        ({"max_new_tokens": 9}, {"min_new_tokens": 30}, {"max_new_tokens": 30}),
        ({"max_new_tokens": "9-x"}, {"min_new_tokens": 30}, {"max_new_tokens": 30}),
        ({"min_new_tokens": 8}, {"max_new_tokens": 3}, {"min_new_tokens": 3}),
        ({"min_new_tokens": 8}, {"max_new_tokens": "2x"}, {"min_new_tokens": 8}),
        ({"max_new_tokens": "9-x"}, {"max_new_tokens": 5}, {"max_new_tokens": 5}),
        ({}, {"num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 3}),
        ({"num_beams": 4}, {"num_return_sequences": 3}, {"num_beams": 4}),
        ({"do_sample": True}, {"num_return_sequences": 3}, {"num_beams": 1, "do_sample": True}),
        ({"num_beams": 4}, {"num_return_sequences": 3, "do_sample": True}, {"num_beams": 1}),
        (
            {"num_beams": 4, "num_return_sequences": 4},
            {"num_beams": 2},
            {"num_return_sequences": 2},
        ),
        ({"num_beams": 4}, {"stop": ("a",)}, {"num_beams": 4}),
        ({}, {"max_new_tokens": "12"}, {"max_new_tokens": 12}),
        ({}, {"max_new_tokens": " 1.50x + 10 "}, {"max_new_tokens": "1.5x+10"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("task", [TRANSLATION, TASKS["text-generation"]], ids=lambda t: t.name)
def test_an_option_goes_before_the_defaults_that_it_conflicts_with(
    task: Task, checkpoint: dict[str, Any], given: dict[str, Any], then: dict[str, Any]
) -> None:
    options = tasks.resolve_options(task, _defaults_of(task, **checkpoint), given)
    assert {name: getattr(options, name) for name in then} == then


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 2, "do_sample": True}, "do_sample is given with num_beams 2"),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens is 6, max_new_tokens 5"),
        ({"num_return_sequences": 5, "num_beams": 4}, "num_return_sequences is 5, num_beams 4"),
    ],
)
def test_two_options_that_conflict_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        tasks.resolve_options(TRANSLATION, MODEL_CONFIGS["translation"], given)
