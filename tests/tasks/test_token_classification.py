"""token-classification against transformers' pipeline.

Its rules on logits made of the tokens (whole numbers, so that scores tie), its answers on exported
checkpoints.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import SHARED
from support import checkpoints
from support.bundles import bundle_of
from support.fakes import MODEL_CONFIGS

import engine
from engine import tasks
from engine.answering.stages import Stages
from engine.bundle.format import ModelConfig
from engine.bundle.tokenizer import Tokenizer
from engine.core.device import CPU, Device
from engine.core.types import Rows
from engine.errors import BundleError, SettingsError
from engine.tasks import TASKS, Context

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
    """Sentences, every seventh of them six in a row."""
    rows = [" ".join(words) for words in sentences()]
    return [" ".join(rows[i : i + 6]) if i % 7 == 0 else row for i, row in enumerate(rows)]


def long_text() -> str:
    return "\n".join(texts())[:20_000]


def long_words() -> list[list[str]]:
    rows = sentences()
    joined = [list(chain(*rows[i : i + 6])) for i in range(len(rows))]
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
    device: Device = CPU
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
    opened: Tokenizer
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
        window = stages.encode(Rows(None, (pa.array(rows, kind),)))
        found = stages.finish([stages.infer(batch) for batch in stages.cut(window)])
        return found.columns["entities"].to_pylist()

    def stages(self, budget: int = 4096, **options: Any) -> Stages:
        length, unknown = self.tokenizer.model_max_length, self.tokenizer.unk_token_id
        model_config = ModelConfig(
            length, labels=self.labels, unk_id=-1 if unknown is None else unknown
        )
        settled = tasks.resolve_options(NER, model_config, options)
        context = Context(model_config, settled, self.opened, False, lambda: False)
        return Stages(Arithmetic(len(self.labels)), NER, context, budget, length)

    def check(
        self, rows: Sequence[Any], stride: int, strategies: Sequence[str], **options: Any
    ) -> None:
        """Ours against theirs under each strategy."""
        ways = [{"strategy": strategy} for strategy in strategies]
        theirs = self.theirs(rows, stride, ways, **options)
        for strategy, wanted in zip(strategies, theirs, strict=True):
            assert any(wanted)
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
        made = checkpoints.wordpiece() if kind.startswith("bert") else checkpoints.unigram()
        made.model_max_length = 48
        return made
    return RobertaTokenizerFast(
        tokenizer_object=checkpoints.byte_level("bart").backend_tokenizer,
        add_prefix_space=kind.endswith("prefixed"),
        model_max_length=48,
    )


KINDS = ["bert-base-uncased", "roberta", "roberta-prefixed", "t5-small"]


@pytest.fixture(scope="module", params=KINDS)
def rules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rules:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from engine.export.checkpoint import tokenizers

    made = real_tokenizer if SHARED.is_dir() else small_tokenizer
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = made(request.param)
    of_words = made("roberta-prefixed") if request.param == "roberta" else tokenizer
    tokenizers.save(tokenizer, folder)
    opened = Tokenizer(folder / "tokenizer.json", tokenizer.model_max_length)
    return Rules(tokenizer, of_words, opened, LABELS)


quietly = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")


@quietly
@pytest.mark.parametrize("stride", [-1, 0, 5])
def test_entities_of_texts_are_the_pipelines(rules: Rules, stride: int) -> None:
    strategies = STRATEGIES[1:] if stride >= 0 else STRATEGIES
    rules.check([*EDGES, *texts()[:40], long_text()[:2500]], stride, strategies)


@quietly
@pytest.mark.parametrize(("stride", "delimiter"), [(-1, ""), (5, " "), (0, " | ")])
def test_entities_of_words_are_the_pipelines(rules: Rules, stride: int, delimiter: str) -> None:
    strategies = STRATEGIES[1:] if stride >= 0 else STRATEGIES
    rules.check([*EDGE_WORDS, *long_words()[:40]], stride, strategies, delimiter=delimiter)


@quietly
@pytest.mark.parametrize("count", [1, 2, 200])
def test_any_number_of_labels(rules: Rules, count: int) -> None:
    names = tuple(f"{('B-', 'I-', '')[i % 3]}T{i // 4}" for i in range(count))
    replace(rules, labels=names).check([*EDGES, *texts()[:10]], 5, STRATEGIES[1:])


@quietly
@pytest.mark.parametrize("ignored", [(), ("LOC", "B-PER"), LABELS])
def test_labels_are_ignored_as_the_pipeline_does(rules: Rules, ignored: tuple[str, ...]) -> None:
    rows = [*EDGES, *texts()[:10]]
    for strategy in STRATEGIES:
        ways = [{"strategy": strategy, "ignore_labels": ignored}]
        (wanted,) = rules.theirs(rows, -1, ways)
        found = rules.mine(rows, aggregation_strategy=strategy, ignore_labels=ignored)
        check_equal(found, wanted, (strategy, ignored))


def test_every_token_is_answered_once_where_the_pipeline_takes_no_stride(rules: Rules) -> None:
    with pytest.raises(ValueError, match="please select another one"):
        rules.pipe(words=False)._sanitize_parameters(aggregation_strategy="none", stride=5)
    rows = [*EDGES, *texts()[:20], long_text()[:2500]]
    found = rules.mine(rows, stride=5, ignore_labels=())
    limit, rules.tokenizer.model_max_length = rules.tokenizer.model_max_length, 10**6
    whole = [
        rules.tokenizer(row, return_offsets_mapping=True, return_special_tokens_mask=True)
        for row in rows
    ]
    rules.tokenizer.model_max_length = limit
    for row, text, read in zip(found, rows, whole, strict=True):
        own = [i for i, special in enumerate(read["special_tokens_mask"]) if not special]
        assert [e["index"] for e in row] == own
        for e in row:
            token = rules.tokenizer.convert_ids_to_tokens(read["input_ids"][e["index"]])
            start, end = read["offset_mapping"][e["index"]]
            unknown = token == rules.tokenizer.unk_token
            assert e["word"] == (text[start:end] if unknown else token)
            assert (e["start"], e["end"]) == (start, end)
    # Left to its default, the pipeline does not notice, and merges what shares a character.
    plain = [text for text, read in zip(rows, whole, strict=True) if apart(read)]
    assert plain
    (wanted,) = rules.theirs(plain, 5, [{"strategy": "none"}])
    # It counts the space before a window's first token in with some byte-level tokens.
    places = ("start", "end") if rules.opened.widens_first_token[False] else ()
    check_equal(rules.mine(plain, stride=5), wanted, "none", but=("index", *places))


def apart(read: Any) -> bool:
    """Whether no two tokens of a text share a character, and none has no character."""
    marked = (read["offset_mapping"], read["special_tokens_mask"])
    places = [p for p, s in zip(*marked, strict=True) if not s]
    return all(a < b for a, b in places) and all(p[1] <= q[0] for p, q in pairwise(places))


def test_entities_do_not_depend_on_their_neighbours(rules: Rules) -> None:
    rows = [*EDGES, *texts()[:30]]
    order = random.Random(1).sample(range(len(rows)), len(rows))
    for strategy in STRATEGIES:
        options = {"aggregation_strategy": strategy, "stride": 5}
        wanted = rules.mine(rows, 64, **options)
        found = rules.mine([rows[i] for i in order], 16_384, **options)
        assert found == [wanted[i] for i in order]
        assert all(rules.mine([rows[i]], **options) == [wanted[i]] for i in (5, 20))


def test_places_are_characters_of_the_text_or_of_the_words_joined(rules: Rules) -> None:
    words = ["👩‍👩‍👧‍👦", "wonderful", "garden"]
    joined = " | ".join(words)
    found = rules.mine([words], delimiter=" | ", ignore_labels=())[0]
    assert {"wonderful", "garden"} <= {
        joined[e["start"] : last["end"]] for i, e in enumerate(found) for last in found[i:]
    }


def test_what_is_cut_is_told(rules: Rules) -> None:
    rows = Rows(None, (pa.array(["", "a b", long_text()]),))
    assert rules.stages().encode(rows).truncated.tolist() == [False, False, True]
    windowed = rules.stages(stride=5).encode(rows)
    assert not windowed.truncated.any()
    assert windowed.ids.lengths.max() <= 48
    assert 0 not in windowed.owners


def test_a_stride_that_fills_the_window_is_refused_where_the_pipeline_panics(rules: Rules) -> None:
    room = 48 - rules.tokenizer.num_special_tokens_to_add()
    with pytest.raises(BaseException, match="stride"):  # a panic is no Exception
        preprocessed(rules.pipe(words=False), long_text(), room)
    with pytest.raises(SettingsError, match=f"stride is {room}"):
        rules.mine(["a"], stride=room)
    assert rules.mine(["a"], stride=room - 1, ignore_labels=())[0]


def test_byte_level_words_get_a_space_where_the_pipeline_raises(rules: Rules) -> None:
    if rules.tokenizer is rules.of_words:
        pytest.skip("its tokenizer reads words as they are")
    with pytest.raises(AssertionError, match="add_prefix_space=True"):
        preprocessed(rules.pipe(words=False), ["a", "b"], -1)
    (row,) = rules.mine([["a", "b"]], ignore_labels=())
    assert [e["start"] for e in row if e["word"].startswith("Ġ")] == [0, 2]


# the answers, on exported checkpoints


@dataclass(frozen=True)
class Family:
    pipe: Any
    bundle: engine.Bundle

    def check(
        self, rows: Sequence[Any], stride: int = -1, length: int = 0, *, least: int = 100
    ) -> None:
        """All strategies; the forward passes of both sides are made once for all of them."""
        tokenizer = self.pipe.tokenizer
        usual = tokenizer.model_max_length
        tokenizer.model_max_length = length or usual
        outputs = []
        for row in rows:
            made = preprocessed(self.pipe, row, stride)
            outputs.append([self.pipe.forward(piece) for piece in made])
        tokenizer.model_max_length = usual
        found = self.mine(rows, stride, length)
        for strategy in STRATEGIES[stride >= 0 :]:
            wanted = [postprocessed(self.pipe, one, strategy) for one in outputs]
            assert sum(map(len, wanted)) >= least
            check_equal(found[strategy], wanted, (strategy, stride, length))

    def mine(self, rows: Sequence[Any], stride: int, length: int) -> dict[str, Found]:
        ways = {
            s: self.bundle.stages({"aggregation_strategy": s, "stride": stride}, max_length=length)
            for s in STRATEGIES
        }
        kind = pa.list_(pa.string()) if isinstance(rows[0], list) else pa.string()
        given = Rows(None, (pa.array(rows, kind),))
        outputs = {}
        for strategy in ("max", "average"):
            stages = ways[strategy]
            outputs[strategy] = [stages.infer(b) for b in stages.cut(stages.encode(given))]
        return {
            s: stages.finish(outputs.get(s, outputs["max"])).columns["entities"].to_pylist()
            for s, stages in ways.items()
        }


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    """Trained weights (bert) and random ones, or small ones where there is no ../shared."""
    pytest.importorskip("optimum.exporters.onnx")
    import torch
    from transformers import pipeline

    folder = tmp_path_factory.mktemp(request.param)
    if not SHARED.is_dir():
        checkpoint = checkpoints.encoder(folder / "c", request.param, "token-classification")
    elif request.param == "bert":
        checkpoint = request.getfixturevalue("trained") / "minilm-wnut17"
    else:
        checkpoint = roberta(folder / "c")
    model = str(checkpoint)
    pipe = pipeline(
        "token-classification", model=model, tokenizer=model, dtype="float32", device="cpu"
    )
    # One text at a time through a small model: more threads take longer.
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Family(pipe, engine.Bundle.load(bundle_of(checkpoint, "ner"), threads=1))
    torch.set_num_threads(usual)


def roberta(folder: Path) -> Path:
    """The real tokenizer, random weights, and a head that leaves few doubts."""
    import torch
    from transformers import RobertaConfig, RobertaForTokenClassification

    tokenizer = real_tokenizer("roberta-prefixed")
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.15,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model = RobertaForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


@quietly
def test_answers_to_texts_equal_the_pipelines(family: Family) -> None:
    rows = [" ".join(words) for words in sentences()]
    assert len(rows) >= 200
    family.check([*rows, *EDGES, long_text()])


@quietly
def test_answers_to_long_texts_equal_the_pipelines(family: Family) -> None:
    family.check([*texts(), *EDGES], 9, 48)
    family.check([long_text(), "x" * 20_000], 16, least=30)


@quietly
def test_answers_to_words_equal_the_pipelines(family: Family) -> None:
    family.check([*sentences(), *EDGE_WORDS])
    family.check([*EDGE_WORDS, *long_words()[:30]], 9, 48, least=5)


@quietly
def test_a_call_equals_a_call_of_the_pipeline(family: Family) -> None:
    for rows in (texts()[1:7], sentences()[1:7]):
        for options in ({}, {"aggregation_strategy": "max", "stride": 3}):
            words = isinstance(rows[0], list)
            wanted = family.pipe(rows, is_split_into_words=words, **options)
            check_equal(family.bundle(rows, **options)["entities"].to_pylist(), wanted, options)


# options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("aggregation_strategy", "word"),
        ("aggregation_strategy", None),
        ("stride", -2),
        ("stride", "nine"),
        ("ignore_labels", 7),
        ("ignore_labels", (7,)),
        ("delimiter", None),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=option) as caught:
        tasks.resolve_options(NER, MODEL_CONFIGS[NER.name], {option: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "taken"),
    [("O", ("O",)), ("O, MISC,", ("O", "MISC")), ("", ()), (["O"], ("O",)), ((), ())],
)
def test_ignored_labels_may_be_one_text(given: object, taken: tuple[str, ...]) -> None:
    settled = tasks.resolve_options(NER, MODEL_CONFIGS[NER.name], {"ignore_labels": given})
    assert settled.ignore_labels == taken


def test_the_entities_have_the_pipelines_fields() -> None:
    for strategy, names in {
        "none": ["entity", "score", "index", "word", "start", "end"],
        "first": ["entity_group", "score", "word", "start", "end"],
    }.items():
        settled = tasks.resolve_options(
            NER, MODEL_CONFIGS[NER.name], {"aggregation_strategy": strategy}
        )
        kind = NER.schema(MODEL_CONFIGS[NER.name], settled).field("entities").type.value_type
        assert [kind.field(i).name for i in range(kind.num_fields)] == names


def test_a_bundle_without_labels_is_damaged() -> None:
    settled = tasks.resolve_options(NER, MODEL_CONFIGS[NER.name], {})
    with pytest.raises(BundleError, match="no labels"):
        NER.check(ModelConfig(8), settled, 1)
