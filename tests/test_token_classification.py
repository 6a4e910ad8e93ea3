"""token-classification against transformers' pipeline.

Its rules on logits made of the tokens (whole numbers, so that scores tie), its answers on exported
checkpoints.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import numpy as np
import pyarrow as pa
import pytest
from conftest import SHARED
from fakes import FACTS, write_tokenizer

import engine
from engine import tasks
from engine.bundle import Facts
from engine.errors import BundleError, SettingsError
from engine.flow import Rows
from engine.model import Stages, answer
from engine.tasks import TASKS, Context
from engine.tokenizer import Tokenizer

NER = TASKS["token-classification"]
STRATEGIES = ("none", "simple", "first", "average", "max")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "E-A-B", "PER")
EDGES = [
    "",
    " ",
    " \t\n ",
    "a",
    "?",
    "👩‍👩‍👧‍👦 met 🏳️‍🌈 on the 🌙; cafe\u0301, n\u0303, a\u0308\u0323 and \u0301alone. É è ß ﬁ",
    "ولد في القاهرة عام 1911. נולד בחיפה בשנת 1947, ואז abc.",
    "zero\u200bwidth \u200d\u200c and\u00a0hard\u2003spaces\ufeff, soft\u00adly",
    "tabs\tand\nnew\r\nlines,\n\n\n  then two men\ton the moon.  ",
    "[CLS] was here [SEP] and <s> there </s> with [MASK] and [UNK] too. <unk> <pad>",
    "東京タワーは東京にある。Ōsaka, İstanbul, ǅ",
    "x" * 300 + " and then a word",
]
EDGE_WORDS = [
    [],
    [""],
    ["", " ", "a", ""],
    ["New York", " City", "\u0301", "👩‍👩‍👧‍👦", "é"],
    ["\u200b", "\n", "\t"],
    ["[CLS]", "<s>", "und", "[UNK]"],
    ["x" * 300, "y"],
]


def sentences() -> list[list[str]]:
    """Lists of words: WNUT17's, or made up."""
    if not SHARED.is_dir():
        draw = random.Random(0)
        words = " ".join(checkpoints.SENTENCES).split()
        return [draw.choices(words, k=draw.randint(1, 30)) for _ in range(220)]
    blocks = (SHARED / "data/wnut17/dev.conll").read_text("utf-8").split("\n\n")
    found = [[line.split("\t")[0] for line in b.split("\n") if line] for b in blocks]
    return [words for words in found if words][:220]


def texts() -> list[str]:
    """Sentences, every seventh of them ten in a row."""
    rows = [" ".join(words) for words in sentences()]
    return [" ".join(rows[i : i + 10]) if i % 7 == 0 else row for i, row in enumerate(rows)]


def long_text() -> str:
    return "\n".join(texts())[:20_000]


def long_words() -> list[list[str]]:
    rows = sentences()
    joined = [list(chain(*rows[i : i + 10])) for i in range(len(rows))]
    return [joined[i] if i % 7 == 0 else row for i, row in enumerate(rows)]


Found = list[list[dict[str, Any]]]


def preprocessed(pipe: Any, row: Any, stride: int, delimiter: str | None = None) -> list[Any]:
    given = {"is_split_into_words": isinstance(row, list), "delimiter": delimiter}
    more = {"stride": stride} if stride >= 0 else {}
    prepare, _, _ = pipe._sanitize_parameters(**given, **more)
    return list(pipe.preprocess(row, **prepare))


def postprocessed(
    pipe: Any, outputs: list[Any], strategy: str, ignore_labels: Sequence[str] | None = None
) -> Any:
    from transformers.pipelines.token_classification import AggregationStrategy

    # It moves the offsets of words where they lie.
    outputs = [{**o, "offset_mapping": o["offset_mapping"].clone()} for o in outputs]
    return pipe.postprocess(outputs, AggregationStrategy(strategy), ignore_labels)


def check_equal(found: Found, wanted: Found, way: object, *, but: tuple[str, ...] = ()) -> None:
    """The same but for scores, which may be 1e-4 apart, and for the fields `but`."""

    def bare(row: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in e.items() if k not in ("score", *but)} for e in row]

    different = [
        (way, i, mine, theirs)
        for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
        if bare(mine) != bare(theirs)
    ]
    assert not different, (len(different), different[:2])
    scores = [[e["score"] for row in side for e in row] for side in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


# the rules, on logits made of the tokens


def logits_of(ids: np.ndarray, labels: int) -> np.ndarray:
    """Whole numbers for every token, after itself, its neighbours and its place; O leads."""
    around = np.pad(ids, ((0, 0), (1, 1)))
    mixed = around[:, 1:-1] * 7919 + around[:, :-2] * 104_729 + around[:, 2:] * 1_299_709
    mixed += np.arange(ids.shape[1]) // 3
    logits = (mixed[..., None] % 1009) * (np.arange(labels) * 31 + 17) % 8
    logits[..., 0] += 3
    return logits.astype(np.float32)


@dataclass(frozen=True)
class Arithmetic:
    """A backend whose logits are `logits_of`, noise where the rows are padded."""

    labels: int
    device: str = "cpu"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    outputs: tuple[str, ...] = ("logits",)

    def graph(self, name: str) -> Arithmetic:
        return self

    def run(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> list[Any]:
        lengths = feeds["attention_mask"].sum(axis=1)
        out = np.full((*feeds["input_ids"].shape, self.labels), np.nan, np.float32)
        for row, length in enumerate(lengths):
            out[row, :length] = logits_of(feeds["input_ids"][[row], :length], self.labels)[0]
        return [out]

    def host(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Rules:
    """A tokenizer, with the pipeline's functions around it and with ours."""

    tokenizer: Any
    of_words: Any
    file: Path
    labels: tuple[str, ...]

    def pipe(self, words: bool) -> Any:
        from transformers import TokenClassificationPipeline

        pipe = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
        pipe.tokenizer, pipe.framework = self.of_words if words else self.tokenizer, "pt"
        config = SimpleNamespace(id2label=dict(enumerate(self.labels)))
        pipe.model = SimpleNamespace(config=config)
        return pipe

    def theirs(
        self, rows: Sequence[Any], stride: int, ways: Sequence[Any], delimiter: str | None = None
    ) -> list[Found]:
        import torch

        pipe = self.pipe(isinstance(rows[0], list))
        found: list[Found] = [[] for _ in ways]
        for row in rows:
            outputs = preprocessed(pipe, row, stride, delimiter)
            for output in outputs:
                kept = output["attention_mask"].bool()
                logits = torch.zeros(*kept.shape, len(self.labels))
                ids = output["input_ids"][kept].numpy()[None]
                logits[kept] = torch.from_numpy(logits_of(ids, len(self.labels))[0])
                output["logits"] = logits
            for answers, way in zip(found, ways, strict=True):
                answers.append(postprocessed(pipe, outputs, **way))
        return found

    def mine(self, rows: Sequence[Any], budget: int = 4096, **options: Any) -> Found:
        stages = self.stages(budget, **options)
        kind = pa.list_(pa.string()) if isinstance(rows[0], list) else pa.string()
        found = answer(stages, Rows(None, (pa.array(rows, kind),)))
        return found.columns["entities"].to_pylist()

    def stages(self, budget: int = 4096, **options: Any) -> Stages:
        length, unknown = self.tokenizer.model_max_length, self.tokenizer.unk_token_id
        facts = Facts(length, labels=self.labels, unk_id=-1 if unknown is None else unknown)
        settled = tasks.settle(NER, facts, options)
        opened = Tokenizer(self.file, length)
        context = Context(facts, settled, opened, False, lambda: False)
        return Stages(Arithmetic(len(self.labels)), NER, context, budget, length)

    def check(
        self, rows: Sequence[Any], stride: int, strategies: Sequence[str], **options: Any
    ) -> None:
        """Ours against theirs under each strategy."""
        ways = [{"strategy": strategy} for strategy in strategies]
        theirs = self.theirs(rows, stride, ways, **options)
        for strategy, wanted in zip(strategies, theirs, strict=True):
            assert sum(map(len, wanted)) > len(rows)
            found = self.mine(rows, aggregation_strategy=strategy, stride=stride, **options)
            check_equal(found, wanted, (strategy, stride))


def real_tokenizer(kind: str) -> Any:
    import transformers

    folder = SHARED / "models/tokenizers"
    if kind.startswith("bert"):
        lower = kind.endswith("uncased")
        return transformers.BertTokenizerFast(
            str(folder / kind / "vocab.txt"), do_lower_case=lower, model_max_length=48
        )
    if kind == "t5-small":
        return transformers.AutoTokenizer.from_pretrained(folder / kind, model_max_length=48)
    return transformers.RobertaTokenizerFast(
        str(folder / "roberta-base/vocab.json"),
        str(folder / "roberta-base/merges.txt"),
        add_prefix_space=kind.endswith("prefixed"),
        model_max_length=48,
    )


def small_tokenizer(kind: str) -> Any:
    from transformers import RobertaTokenizerFast

    if kind.startswith("bert") or kind == "t5-small":
        made = checkpoints._wordpiece() if kind.startswith("bert") else checkpoints._unigram()
        made.model_max_length = 48
        return made
    return RobertaTokenizerFast(
        tokenizer_object=checkpoints._bytes("bart").backend_tokenizer,
        add_prefix_space=kind.endswith("prefixed"),
        model_max_length=48,
    )


KINDS = ["bert-base-cased", "bert-base-uncased", "roberta", "roberta-prefixed", "t5-small"]


@pytest.fixture(scope="module", params=KINDS)
def rules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rules:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from engine.export.facts import save_tokenizer

    made = real_tokenizer if SHARED.is_dir() else small_tokenizer
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = made(request.param)
    of_words = made("roberta-prefixed") if request.param == "roberta" else tokenizer
    save_tokenizer(tokenizer, folder)
    return Rules(tokenizer, of_words, folder / "tokenizer.json", LABELS)


quietly = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")


@quietly
@pytest.mark.parametrize("stride", [-1, 0, 5])
def test_entities_of_texts_are_the_pipelines(rules: Rules, stride: int) -> None:
    strategies = STRATEGIES[1:] if stride >= 0 else STRATEGIES
    rules.check([*EDGES, *texts()[:80], long_text()[:5000]], stride, strategies)


@quietly
@pytest.mark.parametrize(("stride", "delimiter"), [(-1, " "), (-1, ""), (5, " "), (5, " | ")])
def test_entities_of_words_are_the_pipelines(rules: Rules, stride: int, delimiter: str) -> None:
    strategies = STRATEGIES[1:] if stride >= 0 else STRATEGIES
    rules.check([*EDGE_WORDS, *long_words()[:60]], stride, strategies, delimiter=delimiter)
