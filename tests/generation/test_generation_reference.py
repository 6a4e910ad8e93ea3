"""Decoding against transformers: the tokens are those of generate(), row by row.

The graphs are torch models here, so that no export stands between the two searches: the engine
decodes batches of rows, transformers each row in a batch of its own.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fakes import Buffer, FakeBackend

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.device import CPU, Device
from engine.core.types import Ragged
from engine.generation import DecodingOptions, GeneratedSequences, generate_sequences

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
PAD, START, END, OTHER_END = 1, 0, 2, 3
VOCABULARY = 120
LAYERS = 2
MOST = 14


@dataclass(frozen=True)
class TorchEncoder:
    """The graph `encoder`, computed by a model of transformers."""

    model: Any
    inputs = ("input_ids", "attention_mask")

    def run(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> list[Any]:
        given = {name: torch.as_tensor(feeds[name]) for name in self.inputs}
        start = torch.full((len(feeds["input_ids"]), 1), START)
        with torch.inference_mode():
            found = self.model(**given, decoder_input_ids=start, use_cache=True)
        layers = found.past_key_values.to_legacy_cache()
        names = (f"cross.{n}.{p}" for n in range(len(layers)) for p in ("key", "value"))
        cross = dict(zip(names, (v for layer in layers for v in layer[2:]), strict=True))
        return [cross[name] for name in fetch]


@dataclass(frozen=True)
class TorchStep:
    """The graph `step`: slots of one length are one batch of the model."""

    model: Any
    layers: int
    beams: int

    @property
    def causal(self) -> bool:
        return not self.model.config.is_encoder_decoder

    def names(self, kind: str) -> list[str]:
        return [f"{kind}.{n}.{part}" for n in range(self.layers) for part in ("key", "value")]

    @property
    def inputs(self) -> tuple[str, ...]:
        fixed = ("tokens", "lengths", "total", "picks", "scored", *self.names("past"))
        if self.causal:
            return (*fixed, "logit_rows")
        others = (*self.names("cross"), *self.names("last"))
        return (*fixed, *others, "source_last", "source_total")

    @property
    def outputs(self) -> tuple[str, ...]:
        kept = () if self.causal else self.names("cross_present")
        return ("logits", "best", "best_scores", *self.names("present"), *kept)

    def run(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> list[Any]:
        """A causal model's first pass over prompts."""
        with torch.inference_mode():
            found = self.model(torch.as_tensor(feeds["tokens"]), use_cache=True)
        present = self.present(found.past_key_values)
        return [present[name] for name in fetch]

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Any:
        arrays = {name: buffer.array for name, buffer in inputs.items()}

        def step() -> None:
            for length in np.unique(arrays["lengths"]):
                slots = np.flatnonzero(arrays["lengths"] == length)
                with torch.inference_mode():
                    self.advance(arrays, outputs["logits"].array, slots, int(length))
            logits = outputs["logits"].array
            best = np.argsort(-logits, axis=1, kind="stable")[:, : int(arrays["picks"][0])]
            scores = torch.log_softmax(torch.as_tensor(logits), 1).numpy()
            outputs["best"].array[:] = best
            scores = scores if arrays["scored"] else logits
            outputs["best_scores"].array[:] = np.take_along_axis(scores, best, axis=1)

        return step

    def advance(
        self, arrays: Mapping[str, Any], logits: NDArray[Any], slots: NDArray[Any], length: int
    ) -> None:
        tokens = torch.as_tensor(arrays["tokens"].reshape(-1, 1)[slots])
        past = [torch.as_tensor(arrays[name][slots, :, :length]) for name in self.names("past")]
        if self.causal:
            layers = [tuple(past[n : n + 2]) for n in range(0, len(past), 2)]
            cache = transformers.DynamicCache.from_legacy_cache(layers)
            found = self.model(tokens, past_key_values=cache)
            present = self.present(found.past_key_values)
        else:
            rows = slots // self.beams
            lasts = arrays["source_last"][rows]
            cross = [torch.as_tensor(arrays[name][rows]) for name in self.names("cross")]
            mask = torch.as_tensor(np.arange(cross[0].shape[2]) <= lasts[:, None])
            layers = [(*past[n : n + 2], *cross[n : n + 2]) for n in range(0, len(past), 2)]
            cache = transformers.EncoderDecoderCache.from_legacy_cache(layers)
            state = torch.zeros((*mask.shape, self.model.config.hidden_size))  # all is in the cache
            found = self.model(
                encoder_outputs=(state,),
                attention_mask=mask.to(torch.int64),
                decoder_input_ids=tokens,
                past_key_values=cache,
            )
            present = self.present(found.past_key_values.self_attention_cache)
        logits[slots] = found.logits[:, -1].numpy()
        for name in self.names("past"):
            arrays[name][slots, :, length] = present[name.replace("past", "present")][:, :, length]

    def present(self, cache: Any) -> dict[str, Any]:
        values = [value for layer in cache.to_legacy_cache() for value in layer[:2]]
        return dict(zip(self.names("present"), values, strict=True))


@dataclass(frozen=True)
class TorchBackend:
    """The graphs of a bundle, computed by a model of transformers."""

    model: Any
    layers: int
    device: Device = CPU
    cache_bytes: int = 1 << 30
    roles: frozenset[str] = frozenset()

    def graph(self, name: str, beams: int = 1) -> TorchEncoder | TorchStep:
        if name == "encoder":
            return TorchEncoder(self.model)
        assert name == "step"
        return TorchStep(self.model, self.layers, beams)

    buffer, parts, serially = FakeBackend.buffer, FakeBackend.parts, FakeBackend.serially

    def host(self, value: Any) -> NDArray[Any]:
        return value.array if isinstance(value, Buffer) else np.asarray(value.numpy())


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=4,
        pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=START,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=PAD, eos_token_id=END,
        bos_token_id=START, decoder_start_token_id=START,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64,
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def opt() -> Any:
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=LAYERS,
        num_attention_heads=4, ffn_dim=48, max_position_embeddings=64,
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


# Name: how it is made, spread of its weights, and what its end tokens get on top.
FAMILIES = {
    "t5": (t5, 0.5, 3.0),
    "bart": (bart, 0.2, 3.5),
    "gpt2": (gpt2, 0.5, 2.5),
    "opt": (opt, 0.5, 3.0),
}
BAD_PAIRS = tuple(itertools.product(range(20), (5, 70)))
RULES: tuple[dict[str, Any], ...] = (
    {},
    {"min_new_tokens": 5},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1, "forced_eos_id": END},
    {"encoder_no_repeat_ngram_size": 2, "no_repeat_ngram_size": 3},
    {"encoder_no_repeat_ngram_size": 1},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "no_repeat_ngram_size": 4},
    {"forced_bos_id": 9, "forced_eos_id": END},
    {"forced_bos_id": 9, "begin_suppress_ids": (11, 40, END), "suppress_ids": (7, 50, 999)},
    {"begin_suppress_ids": tuple(range(2, 60))},
    {"bad_words_ids": ((END,), (8,), (60, 61), (9, 9), *BAD_PAIRS)},
    {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": tuple((n,) for n in range(4, 90, 3)),
        "min_new_tokens": 3,
        "forced_eos_id": END,
        "suppress_ids": (OTHER_END, 33),
    },
)
BEAMS = tuple(itertools.product((2, 4, 5), (0.0, 1.0, 2.0, -1.0), (False, True, "never")))


def model_of(family: str, seed: int = 0) -> Any:
    """A model whose answers vary and whose rows end at different steps."""
    make, spread, bias = FAMILIES[family]
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, spread)
        head = torch.nn.Linear(32, VOCABULARY)
        head.weight.normal_(0, 0.4 * (32**0.5 if family == "t5" else 1))  # T5 scales its states
        head.bias.zero_()
        head.bias[[END, OTHER_END]] = bias
    model.lm_head = head
    return model


def settings_of(model: Any, end_ids: tuple[int, ...] = (END, OTHER_END)) -> DecoderConfig:
    config = model.config
    causal = not config.is_encoder_decoder
    size, heads = config.hidden_size, config.num_attention_heads
    return DecoderConfig(
        start_id=-1 if causal else START,
        end_ids=end_ids,
        pad_id=PAD,
        max_new_tokens=MOST,
        layers=config.num_hidden_layers,
        heads=heads,
        head_dim=getattr(config, "d_kv", size // heads),
        vocabulary=config.vocab_size,
    )


def rows_of(count: int, seed: int, longest: int = 11) -> list[list[int]]:
    """Rows of few different tokens, so that n-grams come again; some are a single token."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(4, VOCABULARY, draw.integers(1, longest + 1)) for _ in range(count)]
    return [[int(t) if t % 2 else int(t) % 12 + 4 for t in row] for row in rows]


def ours(
    backend: Any,
    settings: DecoderConfig,
    search: GenerationConfig,
    rows: Sequence[Sequence[int]],
    **more: Any,
) -> list[tuple[list[int], bool]]:
    """What the engine makes of rows in one batch."""
    made = sequences_of(backend, settings, search, rows, **more)
    split = np.split(made.tokens.values, made.tokens.offsets[1:-1])
    return [(row.tolist(), bool(end)) for row, end in zip(split, made.ended, strict=True)]


def sequences_of(
    backend: Any,
    settings: DecoderConfig,
    search: GenerationConfig,
    rows: Sequence[Sequence[int]],
    **more: Any,
) -> GeneratedSequences:
    lengths = np.array([len(row) for row in rows])
    width = int(lengths.max()) + 2
    ids = Ragged.of(np.array([t for row in rows for t in row], np.int64), lengths)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": ids.padded(width, PAD), "attention_mask": mask}
    most = more.pop("max_new_tokens", MOST)
    how = DecodingOptions(max_new_tokens=most, **more)
    return generate_sequences(backend, feeds, settings, search, how)


def theirs(
    model: Any, settings: DecoderConfig, search: GenerationConfig, row: Sequence[int], **more: Any
) -> tuple[list[int], bool]:
    """What transformers makes of one row in a batch of its own."""
    more.setdefault("max_new_tokens", MOST)
    found = generated(model, settings, search, row, **more).sequences[0].tolist()
    tokens = found[len(row) if settings.causal else 1 :]
    return tokens, bool(tokens) and tokens[-1] in settings.end_ids


def generated(
    model: Any, settings: DecoderConfig, search: GenerationConfig, row: Sequence[int], **more: Any
) -> Any:
    """All that generate() returns of one row."""
    none = {-1: None}
    config = transformers.GenerationConfig(
        max_new_tokens=more.pop("max_new_tokens", MOST),
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        num_return_sequences=search.num_return_sequences,
        pad_token_id=settings.pad_id,
        eos_token_id=list(settings.end_ids),
        decoder_start_token_id=None if settings.causal else settings.start_id,
        num_beams=search.num_beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        min_new_tokens=search.min_new_tokens or None,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size=search.encoder_no_repeat_ngram_size,
        repetition_penalty=search.repetition_penalty,
        forced_bos_token_id=none.get(search.forced_bos_id, search.forced_bos_id),
        forced_eos_token_id=none.get(search.forced_eos_id, search.forced_eos_id),
        bad_words_ids=[list(word) for word in search.bad_words_ids] or None,
        suppress_tokens=list(search.suppress_ids) or None,
        begin_suppress_tokens=list(search.begin_suppress_ids) or None,
    )
    model.generation_config = config
    ids = torch.tensor([list(row)])
    with torch.inference_mode():
        return model.generate(ids, attention_mask=torch.ones_like(ids), **more)


def different(
    family: str,
    cases: Sequence[tuple[GenerationConfig, Sequence[Sequence[int]]]],
    model: Any = None,
) -> tuple[list[Any], list[tuple[list[int], bool]]]:
    """The rows that do not come out the same, and all that came out."""
    model = model or model_of(family)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)
    wrong, found = [], []
    for search, rows in cases:
        mine = ours(backend, settings, search, rows)
        for row, own in zip(rows, mine, strict=True):
            wanted = theirs(model, settings, search, row)
            found.append(own)
            if own != wanted:
                wrong.append((search, row, own, wanted))
    return wrong, found


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models as small as these only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_under_every_rule(family: str) -> None:
    cases = [(GenerationConfig(**rules), rows_of(8, seed)) for seed, rules in enumerate(RULES)]
    wrong, found = different(family, cases)
    assert not wrong
    assert len({len(tokens) for tokens, _ in found}) > 5, "rows must end at different steps"
    assert {ended for _, ended in found} == {True, False}


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_under_every_setting(family: str) -> None:
    """Rules take turns, so that all of them come with each number of beams."""
    cases = []
    for seed, (beams, penalty, early) in enumerate(BEAMS):
        shape = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early}
        rules = RULES[seed % len(RULES)]
        cases.append((GenerationConfig(**shape), rows_of(1, 2 * seed)))
        cases.append((GenerationConfig(**shape, **rules), rows_of(2, 2 * seed + 1)))
    wrong, found = different(family, cases)
    assert not wrong
    assert len(found) == 3 * len(BEAMS)
    assert len({len(tokens) for tokens, _ in found}) > 5, "rows must end at different steps"


@pytest.mark.parametrize("end_ids", [(END,), (END, OTHER_END, 5)])
@pytest.mark.parametrize("beams", [1, 3])
def test_one_end_token_and_several(end_ids: tuple[int, ...], beams: int) -> None:
    """Ends are likely, so that they take most of the first places among a step's candidates."""
    model, rows = model_of("bart"), rows_of(12, 7)
    with torch.no_grad():
        model.lm_head.bias[list(end_ids)] = 6.0
    settings, backend = settings_of(model, end_ids), TorchBackend(model, LAYERS)
    search = GenerationConfig(num_beams=beams, length_penalty=3.0, early_stopping="never")
    mine = ours(backend, settings, search, rows)
    assert mine == [theirs(model, settings, search, row) for row in rows]


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_short_limits(family: str, most: int) -> None:
    model, rows = model_of(family), rows_of(5, most)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)
    forced = {"forced_bos_id": 9, "forced_eos_id": END}
    for search in (
        GenerationConfig(),
        GenerationConfig(**forced),
        GenerationConfig(num_beams=3),
        GenerationConfig(num_beams=3, **forced),
    ):
        mine = ours(backend, settings, search, rows, max_new_tokens=most)
        assert mine == [
            theirs(model, settings, search, row, max_new_tokens=most) for row in rows
        ], search


@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_by_what_was_said(family: str) -> None:
    """The token that completes the stop belongs to the row, and the prompt's end may begin it."""
    model, rows = model_of(family), rows_of(12, 3)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)

    def stops(last: Sequence[int]) -> bool:
        return sum(last[-2:]) % 7 == 0

    def asked(tails: Ragged) -> NDArray[np.bool_]:
        rows = np.split(tails.values, tails.offsets[1:-1])
        assert all(1 <= len(row) <= 2 for row in rows)
        return np.array([stops(row.tolist()) for row in rows])

    def criterion(ids: Any, scores: Any, **more: Any) -> Any:
        return torch.tensor([stops(row) for row in ids.tolist()])

    mine = ours(backend, settings, GenerationConfig(), rows, stop=asked, tail=2)
    criteria = transformers.StoppingCriteriaList([criterion])
    wanted = [
        theirs(model, settings, GenerationConfig(), row, stopping_criteria=criteria)[0]
        for row in rows
    ]
    assert [tokens for tokens, _ in mine] == wanted
    assert any(ended and tokens[-1] not in settings.end_ids for tokens, ended in mine)


@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_beams_by_what_they_said(family: str) -> None:
    """As StopStringCriteria, which transformers asks about every candidate of a beam search."""
    model, rows = model_of(family), rows_of(8, 3)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)

    def stops(last: Sequence[int]) -> bool:
        return sum(last[-2:]) % 7 == 0

    def asked(tails: Ragged) -> NDArray[np.bool_]:
        return np.array([stops(row) for row in np.split(tails.values, tails.offsets[1:-1])])

    def criterion(ids: Any, scores: Any, **more: Any) -> Any:
        return torch.tensor([stops(row) for row in ids.tolist()])

    criteria = transformers.StoppingCriteriaList([criterion])
    stopped = 0
    for early in (False, True, "never"):
        search = GenerationConfig(num_beams=3, num_return_sequences=2, early_stopping=early)
        mine = ours(backend, settings, search, rows, stop=asked, tail=2)
        for n, row in enumerate(rows):
            made = generated(model, settings, search, row, stopping_criteria=criteria)
            start = len(row) if settings.causal else 1
            for (tokens, ended), wanted in zip(
                mine[2 * n :], made.sequences.tolist(), strict=False
            ):
                assert tokens == wanted[start : start + len(tokens)]
                assert set(wanted[start + len(tokens) :]) <= {PAD, END}
                assert ended or len(tokens) == MOST
                stopped += tokens[-1] not in settings.end_ids and ended
    assert stopped > 3


@pytest.mark.parametrize("rules", [{}, RULES[6], RULES[-1]], ids=["plain", "penalty", "many"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_and_scores_of_beams(family: str, rules: dict[str, Any]) -> None:
    model, rows = model_of(family), rows_of(6, 5)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)
    for beams, count, penalty in ((4, 4, 1.0), (5, 2, 0.4), (3, 3, -1.0)):
        search = GenerationConfig(
            num_beams=beams, num_return_sequences=count, length_penalty=penalty, **rules
        )
        mine = sequences_of(backend, settings, search, rows, scored=True)
        plain = sequences_of(backend, settings, search, rows)
        assert plain.tokens.values.tolist() == mine.tokens.values.tolist()
        assert not len(plain.logprobs.values)
        for n, row in enumerate(rows):
            made = generated(model, settings, search, row)
            transitions = model.compute_transition_scores(
                made.sequences, made.scores, made.beam_indices, normalize_logits=False
            )
            for k in range(count):
                check_sequence(settings, mine, count * n + k, len(row), made, k, transitions)


@pytest.mark.parametrize("rules", [{}, RULES[6], RULES[-1]], ids=["plain", "penalty", "many"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_greedy_rows(family: str, rules: dict[str, Any]) -> None:
    """The score is what beam search would give for the same tokens."""
    model, rows = model_of(family), rows_of(6, 9)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)
    search = GenerationConfig(length_penalty=0.7, **rules)
    mine = sequences_of(backend, settings, search, rows, scored=True)
    for n, row in enumerate(rows):
        made = generated(model, settings, search, row)
        transitions = model.compute_transition_scores(
            made.sequences, made.scores, normalize_logits=True
        )
        made.sequences_scores = transitions.sum(dim=1) / transitions.shape[1] ** 0.7
        check_sequence(settings, mine, n, len(row), made, 0, transitions)


def check_sequence(
    settings: DecoderConfig,
    mine: GeneratedSequences,
    at: int,
    prompt: int,
    made: Any,
    k: int,
    transitions: Any,
) -> None:
    """Our sequence `at` is generate()'s k-th of a row, with its score and log-probabilities."""
    tokens = mine.tokens.take(np.array([at])).values.tolist()
    start = prompt if settings.causal else 1
    wanted = made.sequences[k].tolist()[start:]
    assert tokens == wanted[: len(tokens)]
    assert set(wanted[len(tokens) :]) <= {PAD, END}
    assert mine.scores[at] == pytest.approx(float(made.sequences_scores[k]), rel=1e-5, abs=1e-4)
    logprobs = mine.logprobs.take(np.array([at])).values
    np.testing.assert_allclose(logprobs, transitions[k, : len(tokens)].numpy(), atol=5e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_has_its_own_limit(family: str, beams: int) -> None:
    """A limit of a row's own, and a minimum that counts its prompt."""
    model, rows = model_of(family), rows_of(10, 4)
    settings, backend = settings_of(model), TorchBackend(model, LAYERS)
    limits = np.arange(1, 11)
    rules: dict[str, Any] = {"num_beams": beams, "forced_eos_id": END, "early_stopping": "never"}
    search = GenerationConfig(min_new_tokens="9-x", **rules)
    mine = ours(backend, settings, search, rows, max_new_tokens=limits)
    for row, limit, own in zip(rows, limits.tolist(), mine, strict=True):
        least = GenerationConfig(min_new_tokens=max(0, 9 - len(row)), **rules)
        assert own == theirs(model, settings, least, row, max_new_tokens=limit)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_trained_model_on_real_text(trained: Path, shared: Path, beams: int) -> None:
    folder = trained / "flan-t5-small"
    with gzip.open(shared / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
        captions = [line.strip() for line in itertools.islice(stream, 24)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = tokenizer([f"translate English to German: {text}" for text in captions])["input_ids"]
    settings = dataclasses.replace(settings_of(model, (1,)), start_id=0, pad_id=0)
    search = GenerationConfig(num_beams=beams)
    backend = TorchBackend(model, settings.layers)
    mine = ours(backend, settings, search, rows, max_new_tokens=32)
    wanted = [theirs(model, settings, search, row, max_new_tokens=32) for row in rows]
    assert mine == wanted
