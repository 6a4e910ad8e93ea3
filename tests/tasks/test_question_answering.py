"""question-answering against transformers' pipeline: on real text, and on ties made by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from support.fakes import MODEL_CONFIGS, write_tokenizer

import engine
from engine import tasks
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Encoded, Ragged, Rows
from engine.errors import SettingsError
from engine.tasks import TASKS, Context

QA = TASKS["question-answering"]
# The pipeline's own use of NumPy, once for each window.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.15,
}
ASKED = "Who was it, and when?"
EDGES = [
    (ASKED, " "),
    (ASKED, " \t\n "),
    (ASKED, "a"),
    (ASKED, "In 1969."),
    (ASKED, "Paris, paris! PARIS? In Paris, par is."),
    (ASKED, "👩‍👩‍👧‍👦 met 🏳️‍🌈 on the 🌙; cafe\u0301, n\u0303, a\u0308\u0323 and \u0301alone."),
    (ASKED, "ولد في القاهرة عام 1911. נולד בחיפה בשנת 1947, ואז abc."),
    (ASKED, "zero\u200bwidth \u200d\u200c and\u00a0hard\u2003spaces\ufeff, soft\u00adly"),
    (ASKED, "tabs\tand\nnew\r\nlines,\n\n\n  then two men\ton the moon."),
    (ASKED, "[CLS] was here [SEP] and <s> there </s> with [MASK] and [UNK] too."),
    ("What [CLS] and <s> are these?", "Two people walked on the moon in 1969."),
    (" ", "Two people walked on the moon in 1969, and nobody else was there."),
    ("?", "x" * 300 + " and then a word"),
]


@dataclass(frozen=True)
class Family:
    pipe: Any
    bundle: engine.Bundle
    rows: list[tuple[str, str]]
    small: Mapping[str, int]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A random checkpoint with its pipeline, its bundle, rows, and sizes that make many windows."""
    pytest.importorskip("optimum.exporters.onnx")
    from transformers import pipeline

    folder = tmp_path_factory.mktemp(request.param)
    real = SHARED.is_dir()
    checkpoint = MAKERS[request.param](folder / "checkpoint", real)
    model = str(checkpoint)
    pipe = pipeline(
        "question-answering", model=model, tokenizer=model, dtype="float32", device="cpu"
    )
    small = {"max_seq_len": 160, "doc_stride": 32} if real else {"max_seq_len": 48, "doc_stride": 8}
    bundle = engine.Bundle.load(bundle_of(checkpoint, "question-answering"))
    return Family(pipe, bundle, xquad() if real else made_up(), small)


def bert(folder: Path, real: bool) -> Path:
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

    tokenizer = checkpoints.wordpiece()
    if real:
        vocabulary = SHARED / "models/tokenizers/bert-base-cased/vocab.txt"
        tokenizer = BertTokenizerFast(str(vocabulary), do_lower_case=False, model_max_length=512)
    return saved(folder, tokenizer, BertForQuestionAnswering, BertConfig, 0)


def roberta(folder: Path, real: bool) -> Path:
    from tokenizers.processors import RobertaProcessing
    from transformers import RobertaConfig, RobertaForQuestionAnswering, RobertaTokenizerFast

    tokenizer = checkpoints.byte_level("bart")
    ends = (("</s>", 2), ("<s>", 0))
    # As roberta-base has it: with add_prefix_space a window's first word would keep its space.
    tokenizer.backend_tokenizer.post_processor = RobertaProcessing(*ends, add_prefix_space=False)
    if real:
        files = SHARED / "models/tokenizers/roberta-base"
        tokenizer = RobertaTokenizerFast(
            str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=512
        )
    return saved(folder, tokenizer, RobertaForQuestionAnswering, RobertaConfig, 2)


MAKERS = {"bert": bert, "roberta": roberta}


def saved(folder: Path, tokenizer: Any, model: Any, config: Any, offset: int) -> Path:
    """A checkpoint whose head is scaled up, so that spans are not near-ties."""
    import torch

    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    positions = tokenizer.model_max_length + offset
    made = model(
        config(
            **SHAPE,
            vocab_size=len(tokenizer),
            max_position_embeddings=positions,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        made.qa_outputs.weight.normal_(0, 0.6)
    made.save_pretrained(folder)
    return folder


def xquad() -> list[tuple[str, str]]:
    """Spanish and Russian: a question for each paragraph, every tenth one three paragraphs long."""
    rows = []
    for language in ("es", "ru"):
        content = json.loads((SHARED / f"data/xquad/xquad.{language}.json").read_text("utf-8"))
        found = [p for article in content["data"] for p in article["paragraphs"]][:107]
        for i, paragraph in enumerate(found[:105]):
            more = found[i + 1 : i + 3] if i % 10 == 0 else []
            context = "\n".join(p["context"] for p in [paragraph, *more])
            rows.append((min((q["question"] for q in paragraph["qas"]), key=len), context))
    return rows


def made_up() -> list[tuple[str, str]]:
    draw = random.Random(0)
    words = " ".join(checkpoints.SENTENCES).split()
    return [
        (
            " ".join(draw.choices(words, k=3)) + "?",
            " ".join(draw.choices(checkpoints.SENTENCES, k=draw.randint(1, 6))),
        )
        for _ in range(220)
    ]


def long_text(rows: Sequence[tuple[str, str]]) -> str:
    return " ".join(context for _, context in rows)[:20_000]


Found = list[list[dict[str, Any]]]


def theirs(
    pipe: Any, rows: Sequence[tuple[str, str]], sizes: Mapping[str, int], ways: Sequence[Any]
) -> list[Found]:
    """The pipeline's answers for each way; its forward passes are made once for all of them."""
    found: list[Found] = [[] for _ in ways]
    for question, context in rows:
        example = pipe.create_sample(question, context)
        outputs = [pipe.forward(piece) for piece in pipe.preprocess(example, **sizes)]
        for answers, way in zip(found, ways, strict=True):
            answers.append(listed(pipe.postprocess(outputs, **way)))
    return found


def listed(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def mine(
    bundle: engine.Bundle,
    rows: Sequence[tuple[str, str]],
    sizes: Mapping[str, int],
    ways: Sequence[Any],
    *,
    batch_tokens: int = 0,
) -> list[Found]:
    """The same of the bundle."""
    stages = bundle.stages(sizes, batch_tokens=batch_tokens)
    texts = tuple(pa.array(column) for column in zip(*rows, strict=True))
    outputs = [stages.infer(batch) for batch in stages.cut(stages.encode(Rows(None, texts)))]
    found = []
    for way in ways:
        answers = bundle.stages({**sizes, **way}, batch_tokens=batch_tokens).finish(outputs)
        found.append(unfolded(answers.columns.to_pylist()))
    return found


def unfolded(rows: list[dict[str, Any]]) -> Found:
    """Columns of lists as lists of answers."""
    names = ("answer", "score", "start", "end")
    if not rows or "answer" in rows[0]:
        return [[row] for row in rows]
    columns = [[row[f"{name}s"] for name in names] for row in rows]
    return [[dict(zip(names, a, strict=True)) for a in zip(*c, strict=True)] for c in columns]


def check_equal(found: Found, wanted: Found, way: object) -> None:
    different = [
        (way, i, mine, theirs)
        for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
        if [(a["start"], a["end"], a["answer"]) for a in mine]
        != [(a["start"], a["end"], a["answer"]) for a in theirs]
    ]
    assert not different, (len(different), different[:3])
    scores = [[a["score"] for row in side for a in row] for side in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


WAYS = [
    {"top_k": 1},
    {"top_k": 3, "handle_impossible_answer": True},
    {"top_k": 1, "handle_impossible_answer": True, "align_to_words": False},
    {"top_k": 3, "max_answer_len": 4},
]


def fitting(family: Family, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows whose question leaves a small window more room than the stride: others it panics at."""
    room = family.small["max_seq_len"] - family.small["doc_stride"] - 5
    return [row for row in rows if len(family.pipe.tokenizer.tokenize(row[0])) < room]


@pytest.mark.parametrize("windows", ["usual", "small"])
def test_answers_equal_the_pipelines(family: Family, windows: str) -> None:
    sizes = family.small if windows == "small" else {}
    rows = fitting(family, family.rows)
    assert len(rows) >= 200
    ways = WAYS if sizes else WAYS[:2]
    wanted = theirs(family.pipe, rows, sizes, ways)
    for way, here, there in zip(ways, mine(family.bundle, rows, sizes, ways), wanted, strict=True):
        check_equal(here, there, (sizes, way))


@pytest.mark.parametrize("windows", ["usual", "small"])
def test_edge_rows_equal_the_pipelines(family: Family, windows: str) -> None:
    sizes = family.small if windows == "small" else {}
    rows = [*EDGES, (ASKED, long_text(family.rows))]
    ways = [*WAYS, {"top_k": 40}, {"max_answer_len": 1}, {"max_answer_len": 10_000}]
    wanted = theirs(family.pipe, rows, sizes, ways)
    for way, here, there in zip(ways, mine(family.bundle, rows, sizes, ways), wanted, strict=True):
        # Where the pipeline gives nothing at all, a column of one answer still has a value.
        nothing = {"answer": "", "score": 0.0, "start": 0, "end": 0}
        padded = [row or [nothing] * (way.get("top_k", 1) == 1) for row in there]
        check_equal(here, padded, (sizes, way))


def test_a_call_equals_a_call_of_the_pipeline(family: Family) -> None:
    rows = family.rows[1:11]
    questions, contexts = ([row[n] for row in rows] for n in range(2))
    for options in ({}, {"top_k": 3, "handle_impossible_answer": True, **family.small}):
        wanted = family.pipe(question=questions, context=contexts, **options)
        found = unfolded(family.bundle(rows, **options).to_pylist())
        check_equal(found, [listed(row) for row in wanted], options)


def test_an_empty_question_or_context_has_no_answer_where_the_pipeline_raises(
    family: Family,
) -> None:
    rows = [("", "In 1969."), (ASKED, ""), ("", ""), (ASKED, "In 1969.")]
    for question, context in rows[:3]:
        with pytest.raises(ValueError, match="cannot be empty"):
            family.pipe(question=question, context=context)
    nothing = {"answer": "", "score": 0.0, "start": 0, "end": 0}
    found = family.bundle(rows, handle_impossible_answer=True).to_pylist()
    assert found[:3] == [nothing] * 3
    assert [len(row) for row in unfolded(family.bundle(rows, top_k=2).to_pylist())] == [0, 0, 0, 2]
    assert family.bundle(rows[:3]).to_pylist() == [nothing] * 3


def test_a_question_that_fills_the_window_is_cut_where_the_pipeline_fails(family: Family) -> None:
    rows = [("why " * 200, "Two people walked on the moon."), (ASKED, "In 1969.")]
    with pytest.raises(BaseException, match=r"too short|stride"):  # a panic is no Exception
        theirs(family.pipe, [("why " * 200, long_text(family.rows))], family.small, WAYS[:1])
    found = family.bundle(rows, **family.small).to_pylist()
    assert found[0]["answer"] == rows[0][1][found[0]["start"] : found[0]["end"]]
    alone = family.bundle(rows[1:], **family.small).to_pylist()
    check_equal(unfolded(found[1:]), unfolded(alone), "beside a long question and alone")
    texts = tuple(pa.array(column) for column in zip(*rows, strict=True))
    encoded = family.bundle.stages(family.small).encode(Rows(None, texts))
    assert encoded.truncated.tolist() == [True, False]
    assert encoded.ids.lengths.max() <= family.small["max_seq_len"]


def test_as_many_spans_as_candidates_are_all_looked_at_where_the_pipeline_raises(
    family: Family,
) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        tied_by_them(np.zeros(4), np.zeros(4), [False, True, True, False], 16, 15)
    length = len(family.pipe.tokenizer(" ", "a").input_ids)
    top_k, rest = divmod(length * length - 10, 2)
    assert not rest
    (found,) = unfolded(family.bundle([(" ", "a")], top_k=top_k).to_pylist())
    assert ("a", 0, 1) in [(a["answer"], a["start"], a["end"]) for a in found]


def test_answers_do_not_depend_on_their_neighbours(family: Family) -> None:
    rows = [*fitting(family, family.rows)[:40], *EDGES]
    way = {"top_k": 3, "handle_impossible_answer": True}
    (wanted,) = mine(family.bundle, rows, family.small, [way], batch_tokens=64)
    order = random.Random(1).sample(range(len(rows)), len(rows))
    shuffled = [rows[i] for i in order]
    (found,) = mine(family.bundle, shuffled, family.small, [way], batch_tokens=16_384)
    check_equal(found, [wanted[i] for i in order], way)
    for i in (0, len(rows) - 1):
        check_equal(mine(family.bundle, [rows[i]], family.small, [way])[0], [wanted[i]], way)


# ties, by hand


def context(tokenizer: Any = None, **options: object) -> Context:
    model_config = MODEL_CONFIGS[QA.name]
    return Context(
        model_config,
        tasks.resolve_options(QA, model_config, options),
        tokenizer,
        True,
        lambda: False,
    )


def tied_by_them(
    start: np.ndarray, end: np.ndarray, allowed: Sequence[bool], count: int, longest: int
) -> tuple[list[tuple[int, int, float]], float]:
    from transformers.pipelines.question_answering import select_starts_ends

    masked = ~np.array([allowed])
    starts, ends, scores, null = select_starts_ends(
        np.array([start], np.float32),
        np.array([end], np.float32),
        masked.astype(int),
        np.ones_like(masked, int),
        top_k=count,
        handle_impossible_answer=True,
        max_answer_len=longest,
    )
    return list(zip(starts.tolist(), ends.tolist(), scores.tolist(), strict=True)), null


windows = st.lists(
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=12
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(windows, st.sampled_from([1, 2, 5, 30]), st.sampled_from([1, 3, 15]), st.booleans())
def test_equal_scores_come_in_the_pipelines_order(
    pieces: list[list[tuple[int, int, bool]]], top_k: int, longest: int, aligned: bool
) -> None:
    """Whole numbers as logits, a window's tokens its letters; no two answers are alike."""
    pytest.importorskip("transformers.pipelines.question_answering")
    text = "".join(chr(0x4E00 + i) for i in range(sum(map(len, pieces))))
    count = 2 * top_k + 10 if aligned else top_k
    offset, answers, nulls = 0, {}, []
    for piece in pieces:
        if len(piece) ** 2 == count:
            return
        start, end, allowed = (np.array(column) for column in zip(*piece, strict=True))
        spans, null = tied_by_them(start, end, allowed, count, longest)
        nulls.append(null)
        for first, last, score in spans:
            at = (offset + first, offset + last + 1)
            answer = answers.setdefault(text[slice(*at)], [0.0, *at])
            answer[0] += score
        offset += len(piece)
    wanted = [(a, *rest) for a, rest in answers.items()]
    wanted.append(("", min(nulls), 0, 0))
    wanted = sorted(wanted, key=lambda answer: answer[1], reverse=True)[:top_k]

    made = context(
        top_k=top_k,
        max_answer_len=longest,
        align_to_words=aligned,
        handle_impossible_answer=True,
    )
    columns = QA.postprocess(window(pieces, text), logits(pieces), made)
    found = unfolded(
        pa.RecordBatch.from_arrays(
            columns, schema=QA.schema(made.model_config, made.options)
        ).to_pylist()
    )[0]
    assert [(a["answer"], a["start"], a["end"]) for a in found] == [(a[0], *a[2:]) for a in wanted]
    assert [a["score"] for a in found] == pytest.approx([a[1] for a in wanted], abs=1e-6)


def window(pieces: list[list[tuple[int, int, bool]]], text: str) -> Encoded:
    """One row whose tokens are the letters of its context, each a word of its own."""
    lengths = np.array([len(piece) for piece in pieces])
    places = np.arange(lengths.sum())
    extra = {
        "allowed": np.array([flag for piece in pieces for _, _, flag in piece], np.bool_),
        "inside": np.ones(len(places), np.bool_),
        "chars": np.stack([places, places + 1], axis=1),
        "words": places,
    }
    rows = Rows(None, (pa.array(["asked"]), pa.array([text])))
    ids, owners = Ragged.of(places, lengths), np.zeros(len(pieces), np.int64)
    return Encoded(rows, ids, None, np.zeros(1, np.bool_), owners, extra)


def logits(pieces: list[list[tuple[int, int, bool]]]) -> dict[str, Ragged]:
    values = np.array([token[:2] for piece in pieces for token in piece], np.float32)
    lengths = np.array([len(piece) for piece in pieces])
    return {name: Ragged.of(values[:, n], lengths) for n, name in enumerate(("start", "end"))}


# options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("top_k", 0),
        ("doc_stride", -2),
        ("max_answer_len", 0),
        ("max_seq_len", -1),
        ("handle_impossible_answer", "perhaps"),
        ("align_to_words", 2),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=option) as caught:
        tasks.resolve_options(QA, MODEL_CONFIGS[QA.name], {option: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "match"),
    [({"doc_stride": 33}, "doc_stride"), ({"max_seq_len": 16, "doc_stride": 17}, "doc_stride")],
)
def test_a_stride_above_the_window_is_refused(
    tmp_path: Path, options: dict[str, int], match: str
) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    made = context(Tokenizer(tmp_path / "tokenizer.json", 32), **options)
    with pytest.raises(SettingsError, match=match):
        QA.encode(Rows(None, (pa.array(["w1"]), pa.array(["w2"]))), made)


def test_a_window_beyond_the_models_positions_is_refused(family: Family) -> None:
    with pytest.raises(SettingsError, match="max_seq_len"):
        family.bundle([(ASKED, "In 1969.")], max_seq_len=513)


def test_no_rows_give_no_answers(family: Family) -> None:
    for top_k in (1, 2):
        assert family.bundle([], top_k=top_k).num_rows == 0
