"""zero-shot-classification against transformers' pipeline, and pairs against `tokenizers`' own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import bundle_of
from support.fakes import MODEL_CONFIGS, FakeBackend, make_bundle, open_bundle, write_tokenizer
from support.fakes import texts as made_texts

import engine
from engine import tasks
from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Encoded, Ragged, Rows
from engine.errors import SettingsError
from engine.tasks import TASKS, Context, zero_shot_classification

TASK = TASKS["zero-shot-classification"]
NLI = ("contradiction", "entailment", "neutral")
NAMES = {"id2label": dict(enumerate(NLI)), "label2id": {name: i for i, name in enumerate(NLI)}}
LABELS = (
    "world politics", "sports", "business", "science and technology", "war", "health", "weather",
    "music", "a company, its shares", "Sports",
)  # fmt: skip
EDGES = [
    " ",
    " \t\n ",
    "a",
    "?",
    "👩‍👩‍👧‍👦 met 🏳️‍🌈 on the 🌙; cafe\u0301, n\u0303, a\u0308\u0323 and \u0301alone.",
    "ولد في القاهرة عام 1911. נולד בחיפה בשנת 1947, ואז abc.",
    "zero\u200bwidth \u200d\u200c and\u00a0hard\u2003spaces\ufeff, soft\u00adly",
    "tabs\tand\nnew\r\nlines,\n\n\n  then two men\ton the moon.",
    "[CLS] was here [SEP] and <s> there </s> with [MASK] and [UNK] too.",
    "x" * 300,
]


@dataclass(frozen=True)
class Family:
    """A checkpoint's pipeline and bundle, and rows with the pipeline's logits for `LABELS`."""

    pipe: Any
    bundle: engine.Bundle
    rows: list[str]
    logits: list[list[Any]]

    def theirs(self, row: int, labels: Sequence[int], *, multi_label: bool) -> dict[str, Any]:
        """What the pipeline says of a row and some of the labels."""
        outputs = [self.logits[row][label] for label in labels]
        return dict(self.pipe.postprocess(outputs, multi_label=multi_label))


@pytest.fixture(scope="module", params=["bert", "other"])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    """Trained MiniLM and a random RoBERTa; without ../shared a random BERT and a DistilBERT."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("optimum.exporters.onnx")
    from transformers import pipeline

    folder = tmp_path_factory.mktemp(request.param)
    if not SHARED.is_dir():
        checkpoint = small(request.param, folder / "checkpoint")
    elif request.param == "bert":
        checkpoint = request.getfixturevalue("trained") / "minilm-sick-nli"
    else:
        checkpoint = roberta(folder / "checkpoint")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipe = pipeline(TASK.name, model=str(checkpoint), dtype="float32", device="cpu")
    rows = news() if SHARED.is_dir() else made_up()
    yield Family(
        pipe, engine.Bundle.load(bundle_of(checkpoint, TASK.name)), rows, logits(pipe, rows, LABELS)
    )
    torch.set_num_threads(threads)


def roberta(folder: Path) -> Path:
    """Two random layers behind the real tokenizer; the head is scaled up against near-ties."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaTokenizerFast

    files = SHARED / "models/tokenizers/roberta-base"
    tokenizer = RobertaTokenizerFast(
        str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=512
    )
    tokenizer.save_pretrained(folder)
    shape = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=514,
        initializer_range=0.15,
        pad_token_id=1,
        **NAMES,
    )
    torch.manual_seed(0)
    made = RobertaForSequenceClassification(shape)
    with torch.no_grad():
        made.classifier.out_proj.weight.normal_(0, 0.4)
    made.save_pretrained(folder)
    return folder


def small(name: str, folder: Path) -> Path:
    if name == "bert":
        return checkpoints.classifier(folder, NLI, initializer_range=0.4)
    checkpoints.distilbert(folder, initializer_range=0.4, **NAMES)
    # The pipeline gives a model what the tokenizer says, and DistilBERT takes no type ids.
    inputs = ["input_ids", "attention_mask"]
    checkpoints.edit_json(folder / "tokenizer_config.json", model_input_names=inputs)
    return folder


def news() -> list[str]:
    lines = (SHARED / "data/agnews/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [text for line in lines if len(text := line.split("\t")[0]) < 140][:200]


def made_up() -> list[str]:
    draw = random.Random(0)
    words = " ".join(checkpoints.SENTENCES).split()
    return [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(200)]


def logits(pipe: Any, rows: Sequence[str], labels: Sequence[str]) -> list[list[Any]]:
    """The pipeline's output for every label of every row, before it makes scores of them.

    One pair at a time, as it does unless told otherwise: in a padded batch equal pairs come out
    a little different, and labels of equal score in another order.
    """
    found: list[list[Any]] = []
    finish = pipe.postprocess

    def keep(outputs: list[Any], **options: Any) -> Any:
        found.append(outputs)
        return finish(outputs, **options)

    pipe.postprocess = keep
    try:
        pipe(list(rows), candidate_labels=list(labels))
    finally:
        pipe.postprocess = finish
    return found


def check_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    different = [
        (i, mine["labels"], mine["scores"], theirs["labels"], theirs["scores"])
        for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
        if mine["labels"] != theirs["labels"]
    ]
    assert not different, (len(different), different[:3])
    scores = [[score for row in side for score in row["scores"]] for side in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_labels_of_the_run_equal_the_pipelines(family: Family) -> None:
    """ "sports" and "Sports" are the same to an uncased model: equal scores, in its order."""
    assert len(family.rows) >= 200
    stages = family.bundle.stages({"candidate_labels": LABELS})
    rows = Rows(None, (pa.array(family.rows),))
    outputs = [stages.infer(batch) for batch in stages.cut(stages.encode(rows))]
    for multi_label in (False, True):
        wanted = [
            family.theirs(i, range(len(LABELS)), multi_label=multi_label)
            for i in range(len(family.rows))
        ]
        options = {"candidate_labels": LABELS, "multi_label": multi_label}
        found = family.bundle.stages(options).finish(outputs)
        check_equal(found.columns.to_pylist(), wanted)


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_of_each_row_equal_the_pipelines(family: Family, multi_label: bool) -> None:
    """One, several, some twice, in any order; a row without labels has empty lists."""
    draw = random.Random(1)
    counts = [draw.choice([0, 1, 1, 2, 3, 5]) for _ in family.rows]
    chosen = [draw.choices(range(len(LABELS)), k=count) for count in counts]
    rows = [(text, [LABELS[i] for i in c]) for text, c in zip(family.rows, chosen, strict=True)]
    nothing: dict[str, Any] = {"labels": [], "scores": []}
    wanted = [
        family.theirs(i, c, multi_label=multi_label) if c else nothing for i, c in enumerate(chosen)
    ]
    check_equal(family.bundle(rows, multi_label=multi_label).to_pylist(), wanted)


def test_a_call_equals_a_call_of_the_pipeline(family: Family) -> None:
    """Labels as one text, another template, 1 label, and 20,000 characters among the edge rows."""
    rows = [*EDGES, " ".join(family.rows)[:20_000]]
    for options in (
        {"candidate_labels": " sports,, business ,war and peace,"},
        {"candidate_labels": ["sports, or not", " music", "{}"], "hypothesis_template": "{}?"},
        {"candidate_labels": ["sports"], "hypothesis_template": "It is {} ({{x}})."},
        {"candidate_labels": ["", "🎾", "ספורט"], "multi_label": True},
    ):
        check_equal(family.bundle(rows, **options).to_pylist(), family.pipe(rows, **options))


def test_200_labels_equal_the_pipelines(family: Family) -> None:
    labels = [f"{label} {number}" for number in range(20) for label in LABELS]
    first, second = family.rows[:2]
    wanted = family.pipe([first], candidate_labels=labels)
    check_equal(family.bundle([first], candidate_labels=labels).to_pylist(), wanted)
    rows = [(second, []), (first, labels), (second, ["music"])]
    check_equal(family.bundle(rows).slice(1, 1).to_pylist(), wanted)


def test_three_labels_come_by_score_and_scores_sum_to_one(family: Family) -> None:
    text = "This is a course about the Transformers library"
    labels = ["education", "politics", "business"]
    (wanted,) = family.pipe([text], candidate_labels=labels)
    (found,) = family.bundle([text], candidate_labels=labels).to_pylist()
    check_equal([found], [wanted])
    assert sorted(found["labels"]) == sorted(labels)
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert sum(found["scores"]) == pytest.approx(1, abs=1e-6)


def test_an_empty_text_at_which_the_pipeline_raises_is_a_premise_without_tokens(
    family: Family,
) -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        family.pipe([""], candidate_labels=list(LABELS))
    outputs = []
    for label in LABELS:
        told = ["", f"This example is {label}."]
        feeds = {"candidate_label": label, "sequence": "", "is_last": True}
        outputs.append(family.pipe.forward({**feeds, **family.pipe._parse_and_tokenize([told])}))
    wanted = family.pipe.postprocess(outputs)
    check_equal(family.bundle([""], candidate_labels=LABELS).to_pylist(), [wanted])


def test_a_label_too_long_for_the_model_at_which_the_pipeline_crashes_is_cut(
    family: Family,
) -> None:
    labels = ["sports", " ".join(family.rows)[:20_000]]
    with pytest.raises((IndexError, RuntimeError)):
        family.pipe(family.rows[:1], candidate_labels=labels)
    found = family.bundle(family.rows[:2], candidate_labels=labels)
    assert [sorted(row) for row in found["labels"].to_pylist()] == [sorted(labels)] * 2
    assert np.isfinite(np.array(found["scores"].to_pylist())).all()


def test_a_row_does_not_depend_on_its_neighbours_or_batches(family: Family) -> None:
    draw = random.Random(2)
    texts = [*family.rows[:20], *EDGES]
    rows = [(text, draw.choices(LABELS, k=draw.randint(0, 4))) for text in texts]
    together = family.bundle(rows).to_pylist()
    for row, wanted in zip(rows[:12], together, strict=False):
        check_equal(family.bundle([row]).to_pylist(), [wanted])
    order = draw.sample(range(len(rows)), len(rows))
    columns = tuple(pa.array(column) for column in zip(*(rows[i] for i in order), strict=True))
    for batch_tokens in (32, 500, 100_000):
        stages = family.bundle.stages({}, batch_tokens=batch_tokens)
        batches = stages.cut(stages.encode(Rows(None, columns)))
        found = stages.finish([stages.infer(batch) for batch in batches]).columns.to_pylist()
        check_equal(found, [together[i] for i in order])


# without a model


def context(
    tokenizer: Any = None, model_config: ModelConfig | None = None, **options: Any
) -> Context:
    model_config = model_config or MODEL_CONFIGS[TASK.name]
    return Context(
        model_config,
        tasks.resolve_options(TASK, model_config, options),
        tokenizer,
        True,
        lambda: False,
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(file)
    return Tokenizer(file, 12)


def encoded(tokenizer: Tokenizer, rows: Sequence[tuple[str, list[str]]], **options: Any) -> Encoded:
    columns = (
        pa.array([text for text, _ in rows], pa.string()),
        pa.array([labels for _, labels in rows], pa.list_(pa.string())),
    )
    return TASK.encode(Rows(None, columns), context(tokenizer, **options))


def test_labels_whose_hypotheses_are_the_same_tokens_share_a_pair(tokenizer: Tokenizer) -> None:
    # Both are unknown words, so that their hypotheses are the same tokens.
    rows = [("w1", ["w2", "x", "y", "w2"]), ("w3", []), ("w4 w5", ["y"])]
    window = encoded(tokenizer, rows, hypothesis_template="{}")
    assert window.owners.tolist() == [0, 0, 2]
    assert not window.truncated.any()
    logits = np.array([[0, 1], [0, 2], [3, 0]], np.float32)
    columns = TASK.postprocess(window, {"logits": logits}, context(tokenizer))
    labels, scores = (column.to_pylist() for column in columns)
    assert [sorted(row) for row in labels] == [["w2", "w2", "x", "y"], [], ["y"]]
    assert scores[0][0] == scores[0][1]
    assert scores[0][2] == scores[0][3]
    assert scores[1] == []
    assert scores[2] == pytest.approx([1 / (1 + np.exp(3))])


def test_rows_without_any_labels_need_no_inference(tokenizer: Tokenizer) -> None:
    window = encoded(tokenizer, [("w1", []), ("w2", [])])
    assert len(window.ids) == 0
    columns = TASK.postprocess(window, {}, context(tokenizer))
    assert [column.to_pylist() for column in columns] == [[[], []], [[], []]]
    assert [c.type for c in columns] == [
        field.type for field in TASK.schema(context().model_config, context().options)
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=20), max_size=6),
    st.booleans(),
)
def test_equal_scores_come_in_the_pipelines_order(
    rows: list[list[tuple[int, int]]], multi_label: bool
) -> None:
    lengths = np.array([len(row) for row in rows], np.int64)
    flat = [f"label {i}" for i in range(sum(lengths))]
    given_logits = np.array([pair for row in rows for pair in row], np.float32).reshape(-1, 2)
    labels = Ragged.of(np.arange(len(flat)), lengths)
    extra = {"names": pa.array(flat, pa.string()), "labels": labels, "pair": np.arange(len(flat))}
    ids = Ragged.of(np.zeros(len(flat), np.int64), np.ones(len(flat), np.int64))
    owners = np.repeat(np.arange(len(rows)), lengths)
    texts = Rows(None, (pa.array([""] * len(rows), pa.string()),))
    window = Encoded(texts, ids, None, np.zeros(len(rows), bool), owners, extra)
    found = TASK.postprocess(window, {"logits": given_logits}, context(multi_label=multi_label))
    names, scores = (column.to_pylist() for column in found)
    for i, row in enumerate(rows):
        wanted = by_the_pipeline(row, multi_label)
        order = list(reversed(wanted.argsort()))
        assert names[i] == [flat[labels.offsets[i] + n] for n in order]
        assert scores[i] == pytest.approx(wanted[order].tolist(), abs=1e-6)


def by_the_pipeline(row: list[tuple[int, int]], multi_label: bool) -> np.ndarray:
    """The arithmetic of ZeroShotClassificationPipeline.postprocess."""
    logits = np.array(row, np.float32).reshape(-1, 2)
    if multi_label or len(row) == 1:
        return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, 1]
    return np.exp(logits[:, 1]) / np.exp(logits[:, 1]).sum(-1, keepdims=True)


def test_scores_of_extreme_logits_are_numbers(tokenizer: Tokenizer) -> None:
    """The pipeline's come out as NaN."""
    window = encoded(tokenizer, [("w1", ["w2", "w3"]), ("w4", ["w5", "w6"])])
    logits = np.array([[0, 900], [0, 0], [0, -900], [0, -901]], np.float32)
    _, scores = TASK.postprocess(window, {"logits": logits}, context(tokenizer))
    assert scores.to_pylist()[0] == [1, 0]
    assert scores.to_pylist()[1] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


@pytest.mark.parametrize(
    ("labels", "agrees", "contradicts"),
    [
        (("contradiction", "entailment", "neutral"), 1, 0),
        (("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), 0, 2),
        (("Entailed", "not"), 0, 1),
        (("c", "n", "entails", "entailment"), 2, 0),
    ],
)
def test_entailment_and_contradiction_are_found_by_the_pipelines_rule(
    labels: tuple[str, ...], agrees: int, contradicts: int
) -> None:
    class Counting(FakeBackend):
        def host(self, value: object) -> np.ndarray:
            return np.arange(len(labels), dtype=np.float32)[None]

    ids = np.ones((1, 2), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids}
    arrays = TASK.infer(Counting(), feeds, context(model_config=ModelConfig(8, labels=labels)))
    assert np.asarray(arrays["logits"]).tolist() == [[contradicts, agrees]]


@pytest.mark.parametrize("labels", [(), ("LABEL_0", "LABEL_1"), ("not_entailment", "neutral")])
def test_a_model_without_an_entailment_label_is_refused_by_its_labels(
    labels: tuple[str, ...],
) -> None:
    with pytest.raises(SettingsError, match="none of the model's labels") as caught:
        zero_shot_classification.entailment(ModelConfig(8, labels=labels))
    assert ", ".join(labels) in caught.value.message
    assert "natural language inference" in caught.value.hint


def test_labels_come_from_the_run_or_from_a_column(tmp_path: Path) -> None:
    made = open_bundle(make_bundle(tmp_path / "bundle", TASK.name))
    texts = made_texts(3)
    with pytest.raises(SettingsError, match="no labels") as caught:
        made(texts)
    assert "--candidate-labels" in caught.value.hint
    assert "--text text,labels" in caught.value.hint
    with pytest.raises(SettingsError, match="twice"):
        made([(text, ["w1"]) for text in texts], candidate_labels=["w2"])
    run = made(texts, candidate_labels=["w1", "w2"], hypothesis_template="{}")
    rows = [{"text": text, "labels": ["w1", "w2"]} for text in texts]
    assert made(rows, hypothesis_template="{}").equals(run)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("candidate_labels", 7),
        ("candidate_labels", ["a", 7]),
        ("hypothesis_template", "This example is good."),
        ("hypothesis_template", "This example is {"),
        ("hypothesis_template", "This {0} is {1}."),
        ("hypothesis_template", "This is {label}."),
        ("hypothesis_template", None),
        ("multi_label", "perhaps"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=option) as caught:
        context(**{option: value})
    assert caught.value.hint


def test_many_labels_make_a_window_of_few_rows() -> None:
    rows = [
        TASK.window(context(candidate_labels=[str(i) for i in range(count)]).options)
        for count in (0, 1, 10, 200, 10_000)
    ]
    assert rows == [256, 4096, 409, 20, 1]


# pairs whose first text is cut

sides = st.lists(st.sampled_from(["w1", "w2", "w3", "x"]), max_size=14).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=6), st.integers(3, 16))
def test_pairs_are_cut_as_the_library_cuts_the_first_text(
    tokenizer: Tokenizer, rows: list[tuple[str, str]], max_length: int
) -> None:
    from tokenizers import Tokenizer as Reference

    reference = Reference.from_str(tokenizer._uncut.to_str())
    wanted, cut = [], []
    for row in rows:
        reference.enable_truncation(max_length, strategy="only_first")
        try:
            encoding = reference.encode(*row)
        except Exception:  # what the pipeline looks for: "too short"
            reference.no_truncation()
            encoding = reference.encode(*row)
        wanted.append((encoding.ids, encoding.type_ids))
        cut.append(bool(encoding.overflowing))
    first, second = (tokenizer.ids(pa.array([row[n] for row in rows])) for n in (0, 1))
    both = (np.arange(len(rows)), np.arange(len(rows)))
    sizes = {"max_length": max_length, "longest": 1000}
    found = chunking.first_cut(first, second, both, tokenizer.pair_layout, **sizes)
    assert listed(found.ids) == [ids for ids, _ in wanted]
    assert listed(found.type_ids) == [types for _, types in wanted]
    assert found.truncated.tolist() == cut
    within = chunking.first_cut(first, second, both, tokenizer.pair_layout, max_length=max_length)
    for i, (ids, _) in enumerate(wanted):
        if len(ids) <= max_length:
            assert listed(within.ids)[i] == ids
        else:
            assert len(listed(within.ids)[i]) == max_length
            assert within.truncated[i]


def listed(rows: Ragged) -> list[list[int]]:
    return [rows.values[a:b].tolist() for a, b in pairwise(rows.offsets)]
