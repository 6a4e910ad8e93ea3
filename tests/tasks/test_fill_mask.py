"""fill-mask against transformers' pipeline: on real text, on edge rows, and its rules by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
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
from support.fakes import MODEL_CONFIGS, UNKNOWN, FakeBackend, write_tokenizer

import engine
from engine import tasks
from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer
from engine.core.types import Ragged, Rows
from engine.errors import BundleError, SettingsError
from engine.tasks import TASKS, Context, fill_mask

TASK = TASKS["fill-mask"]
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    # Twenty times the usual, so that scores are not near-ties.
    "initializer_range": 0.4,
}
# {} is the mask.
EDGES = [
    "{}",
    " {} ",
    "a{}",
    "{}.",
    "{}{}",
    "{} \n\t {} {}",
    "👩‍👩‍👧‍👦 met {} on the 🌙; cafe\u0301, n\u0303, a\u0308\u0323 and \u0301alone.",
    "ولد في {} عام 1911. נולד {} בשנת 1947, ואז abc.",
    "zero\u200bwidth \u200d{}\u200c and\u00a0hard\u2003spaces\ufeff, soft\u00adly",
    "tabs\tand\nnew\r\nlines,\n\n\n  then {} men\ton the moon .",
    "[CLS] [PAD] was {} [SEP] and <s> <pad> there </s> with [UNK] too , it 's .",
    "[CLS] [PAD] was {} [SEP] and <s> <pad> there </s> with {} too , it 's .",
    "{} " + "x" * 300,
]
UNMASKED = ["", " ", "a", "no mask in here", "[ MASK ] < mask >"]
WAYS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 12},
    {"targets": ["house", "garden", "people", "unthinkablehouse", "", "house", "Ġhouse", "🎾"]},
    {"targets": ["dog", "winter", "ran", "the", "a", "of"], "top_k": 2},
    {"targets": "people"},
]


@dataclass(frozen=True)
class Family:
    pipe: Any
    bundle: engine.Bundle
    rows: list[str]

    def masked(self, texts: Sequence[str]) -> list[str]:
        return [text.replace("{}", self.pipe.tokenizer.mask_token) for text in texts]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A random checkpoint with its pipeline, its bundle, and rows with one to three masks."""
    pytest.importorskip("optimum.exporters.onnx")
    from transformers import pipeline

    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = MAKERS[request.param](folder / "checkpoint", SHARED.is_dir())
    model = str(checkpoint)
    pipe = pipeline(TASK.name, model=model, tokenizer=model, dtype="float32", device="cpu")
    texts = prose() if SHARED.is_dir() else made_up()
    rows = with_masks(texts, pipe.tokenizer.mask_token)
    return Family(pipe, engine.Bundle.load(bundle_of(checkpoint, TASK.name)), rows)


def bert(folder: Path, real: bool) -> Path:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    tokenizer = checkpoints.wordpiece()
    if real:
        vocabulary = SHARED / "models/tokenizers/bert-base-uncased/vocab.txt"
        tokenizer = BertTokenizerFast(
            str(vocabulary), model_max_length=512, clean_up_tokenization_spaces=True
        )
    return saved(folder, tokenizer, BertForMaskedLM, BertConfig, 0)


def roberta(folder: Path, real: bool) -> Path:
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

    tokenizer = checkpoints.byte_level("bart")
    if real:
        files = SHARED / "models/tokenizers/roberta-base"
        tokenizer = RobertaTokenizerFast(
            str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=512
        )
    return saved(folder, tokenizer, RobertaForMaskedLM, RobertaConfig, 2)


MAKERS = {"bert": bert, "roberta": roberta}


def saved(folder: Path, tokenizer: Any, model: Any, config: Any, offset: int) -> Path:
    import torch

    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    made = model(
        config(
            **SHAPE,
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length + offset,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    made.save_pretrained(folder)
    return folder


def prose() -> list[str]:
    lines = (SHARED / "data/wikitext2/valid.raw").read_text(encoding="utf-8").splitlines()
    sentences = [s.strip() + " ." for line in lines for s in line.split(" . ")]
    return [s for s in sentences if 40 < len(s) < 160][:220]


def made_up() -> list[str]:
    draw = random.Random(0)
    words = " ".join(checkpoints.SENTENCES).split()
    return [" ".join(draw.choices(words, k=draw.randint(4, 14))) for _ in range(220)]


def with_masks(texts: Sequence[str], mask: str) -> list[str]:
    """A mask in the place of a word; of two or three words in every fifth row."""
    draw = random.Random(1)
    rows = []
    for i, text in enumerate(texts):
        words = text.split(" ")
        for place in draw.sample(range(len(words)), 1 if i % 5 else 2 + i % 2):
            words[place] = mask
        rows.append(" ".join(words))
    return rows


Found = list[list[dict[str, Any]]]


def theirs(pipe: Any, rows: Sequence[str], ways: Sequence[dict[str, Any]]) -> list[Found]:
    """The pipeline's candidates for each way; forward passes are made once for all of them."""
    options = [pipe._sanitize_parameters(**way)[2] for way in ways]
    found: list[Found] = [[] for _ in ways]
    for row in rows:
        output = pipe.forward(pipe.preprocess(row, tokenizer_kwargs={"truncation": True}))
        for answers, way in zip(found, options, strict=True):
            answers.append(unfolded(pipe.postprocess(output, **way)))
    return found


def unfolded(found: list[Any]) -> list[dict[str, Any]]:
    """Candidates of one mask, or a list of them for each mask, with the masks' numbers."""
    masks = found if isinstance(found[0], list) else [found]
    return [{"mask": i, **one} for i, candidates in enumerate(masks) for one in candidates]


def check_equal(found: Found, wanted: Found, way: object = None) -> None:
    names = ("mask", "token", "token_str", "sequence")
    different = [
        (way, i, mine, theirs)
        for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
        if [[one[name] for name in names] for one in mine]
        != [[one[name] for name in names] for one in theirs]
    ]
    assert not different, (len(different), different[:3])
    scores = [[one["score"] for row in side for one in row] for side in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def mine(bundle: engine.Bundle, rows: Sequence[str], **options: Any) -> Found:
    return list(bundle(rows, **options)["candidates"].to_pylist())


def test_candidates_equal_the_pipelines(family: Family) -> None:
    wanted = theirs(family.pipe, family.rows, WAYS)
    assert len(family.rows) >= 200
    for way, there in zip(WAYS, wanted, strict=True):
        check_equal(mine(family.bundle, family.rows, **way), there, way)


def test_edge_rows_equal_the_pipelines(family: Family) -> None:
    """The last is cut behind its mask."""
    long_text = " ".join(made_up())
    rows = family.masked([*EDGES, "{} " + (long_text * 4)[:20_000]])
    for way, there in zip(WAYS, theirs(family.pipe, rows, WAYS), strict=True):
        check_equal(mine(family.bundle, rows, **way), there, way)


def test_a_call_equals_a_call_of_the_pipeline(family: Family) -> None:
    for options in WAYS:
        wanted = [unfolded(row) for row in family.pipe(family.rows[:12], **options)]
        check_equal(mine(family.bundle, family.rows[:12], **options), wanted)


def test_rows_without_a_mask_at_which_the_pipeline_raises_have_no_candidates(
    family: Family,
) -> None:
    from transformers.pipelines import PipelineException

    cut_off = (" ".join(made_up()) * 4)[:20_000] + " {}"
    without = family.masked([*UNMASKED, cut_off])
    for row in without:
        with pytest.raises(PipelineException, match="No mask_token"):
            family.pipe(row, tokenizer_kwargs={"truncation": True})
    assert mine(family.bundle, without) == [[]] * len(without)
    mixed = [row for pair in zip(without, family.rows, strict=False) for row in pair]
    (wanted,) = theirs(family.pipe, family.rows[: len(without)], [{}])
    check_equal(mine(family.bundle, mixed), [row for one in wanted for row in ([], one)])


def test_a_row_does_not_depend_on_its_neighbours_or_batches(family: Family) -> None:
    rows = [*family.rows[:40], *family.masked(EDGES), *UNMASKED]
    together = mine(family.bundle, rows)
    for row, wanted in zip(rows[:12], together, strict=False):
        check_equal(mine(family.bundle, [row]), [wanted])
    order = random.Random(2).sample(range(len(rows)), len(rows))
    column = pa.array([rows[i] for i in order])
    for batch_tokens in (8, 100, 5_000):
        stages = family.bundle.stages({}, batch_tokens=batch_tokens)
        batches = stages.cut(stages.encode(Rows(None, (column,))))
        answers = stages.finish([stages.infer(batch) for batch in batches])
        found = answers.columns["candidates"].to_pylist()
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
    return Tokenizer(file, 8)


scores = st.integers(1, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 4), min_size=width, max_size=width), min_size=1, max_size=5
    )
)


@settings(deadline=None, max_examples=100)
@given(scores, st.integers(1, 12))
def test_the_best_come_first_and_equals_by_their_number(rows: list[list[int]], top_k: int) -> None:
    columns, values = fill_mask.best(np.array(rows, np.float32), top_k)
    for i, row in enumerate(rows):
        wanted = sorted(range(len(row)), key=lambda c: -row[c])[:top_k]
        assert columns[i].tolist() == wanted
        assert values[i].tolist() == [row[c] for c in wanted]
    assert (columns.dtype, values.dtype) == (np.int64, np.float32)


def test_a_mask_of_nothing_but_nan_takes_no_others_candidates() -> None:
    rows = np.array([[0.1, 0.7, 0.2], [np.nan] * 3, [0.5, 0.2, 0.3]], np.float32)
    columns, values = fill_mask.best(rows, 2)
    assert columns[[0, 2]].tolist() == [[1, 2], [0, 2]]
    assert np.isnan(values[1]).all()


def test_targets_are_tokens_first_tokens_or_left_out(tokenizer: Tokenizer) -> None:
    # "w9 w1" is no token; its first is w9. "" has none at all.
    found = fill_mask.targets(("w5", "w9 w1", "", "w5", "nowhere", "w2"), tokenizer)
    assert tokenizer.tokens_of(found) == ["<unk>", "w2", "w5", "w9"]
    for texts in (("",), ("", " ")):
        with pytest.raises(SettingsError, match=r"none of the \d targets") as caught:
            fill_mask.targets(texts, tokenizer)
        assert caught.value.hint


def test_targets_without_a_token_stop_a_run_before_any_inference(tokenizer: Tokenizer) -> None:
    rows = Rows(None, (pa.array(["w1"]),))
    with pytest.raises(SettingsError, match="targets"):
        TASK.encode(rows, context(tokenizer, targets=[""]))


def test_only_rows_with_a_mask_have_a_sequence(tokenizer: Tokenizer) -> None:
    texts = ["w1", "w2 <unk>", "", "<unk> <unk>", "w1 " * 9 + "<unk>"]
    window = TASK.encode(Rows(None, (pa.array(texts),)), context(tokenizer))
    assert window.owners.tolist() == [1, 3]
    assert window.truncated.tolist() == [False, False, False, False, True]
    assert window.type_ids is not None
    assert len(window.type_ids) == 2


def test_a_window_without_any_mask_needs_no_inference(tokenizer: Tokenizer) -> None:
    made = context(tokenizer)
    window = TASK.encode(Rows(None, (pa.array(["w1", "w2"]),)), made)
    assert len(window.ids) == 0
    (column,) = TASK.postprocess(window, {}, made)
    assert column.to_pylist() == [[], []]
    assert column.type == TASK.schema(made.model_config, made.options).field("candidates").type


def test_infer_gives_back_candidates_and_not_logits() -> None:
    rows, length, vocabulary = 3, 5, 40
    logits = np.random.default_rng(0).normal(size=(rows, length, vocabulary)).astype(np.float32)

    class Whole(FakeBackend):
        def host(self, value: object) -> np.ndarray:
            return logits

    ids = np.array([[5, UNKNOWN, 1, 0, 0], [UNKNOWN, 4, UNKNOWN, 1, 0], [4, 4, 4, UNKNOWN, 1]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    arrays = TASK.infer(Whole(), feeds, context(top_k=4))
    token, score = arrays["token"], arrays["score"]
    assert isinstance(token, Ragged)
    assert isinstance(score, Ragged)
    assert token.lengths.tolist() == score.lengths.tolist() == [1, 2, 1]
    assert token.values.shape == score.values.shape == (4, 4)
    for i, (row, place) in enumerate([(0, 1), (1, 0), (1, 2), (2, 3)]):
        powers = np.exp(logits[row, place].astype(np.float64))
        wanted = np.argsort(-powers)[:4]
        assert token.values[i].tolist() == wanted.tolist()
        assert score.values[i] == pytest.approx((powers / powers.sum())[wanted], rel=1e-5)


def test_a_model_without_a_mask_is_refused() -> None:
    model_config = ModelConfig(8)
    with pytest.raises(BundleError, match="mask"):
        TASK.check(model_config, context(model_config=model_config).options, 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("top_k", 0), ("top_k", 1.5), ("targets", 7), ("targets", ["a", 7]), ("targets", None)],
)
def test_an_option_that_does_not_fit_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=option) as caught:
        context(**{option: value})
    assert caught.value.hint


def test_one_target_may_be_given_as_text() -> None:
    assert context(targets="a, b").options.targets == ("a, b",)


def test_many_candidates_make_a_window_of_few_rows() -> None:
    rows = [TASK.window(context(top_k=count).options) for count in (1, 5, 100, 50_000)]
    assert rows == [4096, 819, 40, 32]
