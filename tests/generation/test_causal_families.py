"""Every family of causal models, exported and decoded by ONNX Runtime, against transformers.

Rows go together through the engine's slots; in transformers rows of one length are a batch, so that
nothing is padded there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

from engine import pipeline
from engine.bundle import format as bundle_format
from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.device import CPU, Device
from engine.core.types import Ints, Ragged
from engine.errors import DeviceError
from engine.generation import generate, host_cache, trace_logits
from engine.runtime.backend import OrtBackend

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

# Of classes that have these settings under other names, or not.
WIDE: dict[str, Any] = {"hidden_size": 64, "head_dim": None, "num_key_value_heads": None}
# Class names' beginning in transformers, and what differs from `checkpoints.rotary`'s settings.
# Windows are shorter than the prompts.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied, attention bias": ("Llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen2": ("Qwen2", {"hidden_size": 64}),
    "qwen2 windows": (
        "Qwen2",
        {
            "hidden_size": 64, "use_sliding_window": True, "sliding_window": 8,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "smollm3": ("SmolLM3", {"hidden_size": 64, "no_rope_layers": [1, 0]}),
    "gemma": ("Gemma", {"num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2",
        {
            "sliding_window": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "sliding_window": 8, "query_pre_attn_scalar": 24, "rope_local_base_freq": 100.0,
            "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": False,
        },
    ),
    "phi3": ("Phi3", {"hidden_size": 64, "sliding_window": 16}),
    "gpt_neox": ("GPTNeoX", {**WIDE, "rotary_pct": 0.25}),
    "gpt_neox one after the other": (
        "GPTNeoX",
        {**WIDE, "use_parallel_residual": False, "rotary_pct": 1.0, "attention_bias": False},
    ),
    "phi": ("Phi", {"hidden_size": 64, "partial_rotary_factor": 0.5}),
    "phi with norms of heads": ("Phi", {"hidden_size": 64, "qk_layernorm": True}),
    "gptj": ("GPTJ", {**WIDE, "rotary_dim": 8}),
    "codegen": ("CodeGen", {**WIDE, "rotary_dim": 16, "n_ctx": 512}),
    "falcon 7b": ("Falcon", {**WIDE, "multi_query": True, "bias": False}),
    "falcon 40b": ("Falcon", {**WIDE, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon one after the other": (
        "Falcon", {**WIDE, "multi_query": False, "parallel_attn": False, "bias": True}
    ),
    "stablelm": ("StableLm", {"hidden_size": 64, "head_dim": None, "use_qkv_bias": True}),
    "stablelm parallel": (
        "StableLm", {"hidden_size": 64, "head_dim": None, "use_parallel_residual": True}
    ),
    "cohere": ("Cohere", {"hidden_size": 64, "logit_scale": 0.25}),
    "cohere2": (
        "Cohere2",
        {
            "hidden_size": 64, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "granite": (
        "Granite",
        {
            "hidden_size": 64, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
            "residual_multiplier": 0.5, "attention_multiplier": 0.2, "attention_bias": True,
        },
    ),
    "olmo": ("Olmo", {"hidden_size": 64}),
    "olmo2": ("Olmo2", {"hidden_size": 64}),
    "starcoder2": ("Starcoder2", {"hidden_size": 64, "sliding_window": 8}),
    "gpt_bigcode": ("GPTBigCode", WIDE),
    "gpt_bigcode with all heads": (
        "GPTBigCode",
        {**WIDE, "n_embd": 64, "n_head": 4, "num_attention_heads": None, "multi_query": False},
    ),
}  # fmt: skip
# Those whose beams and samples are compared, too; the searches themselves know no families.
SEARCHED = tuple(FAMILIES)[:12]
# Prompts of each length.
LENGTHS, EACH = (1, 7, 20, 33), 50
MOST = 12
# Many, so that rows end at different steps.
ENDS = tuple(range(3, 30))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(name: str) -> Path:
    family, config = FAMILIES[name]
    return checkpoint_of(checkpoints.rotary, family, **config)


@cache
def opened(path: Path) -> tuple[OrtBackend, DecoderConfig]:
    folder = bundle_format.load(bundle_of(path, "text-generation"))
    decoder = folder.description.model_config.decoder
    assert decoder
    return OrtBackend(folder.path, folder.graphs_for(CPU), device=CPU), decoder


@cache
def model_of(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")


@cache
def prompts(seed: int = 0) -> tuple[tuple[int, ...], ...]:
    draw = np.random.default_rng(seed)
    lengths = draw.permutation(np.repeat(LENGTHS, EACH))
    return tuple(tuple(draw.integers(3, 300, n).tolist()) for n in lengths)


def feeds_of(rows: tuple[tuple[int, ...], ...]) -> Mapping[str, Ints]:
    lengths = np.array([len(row) for row in rows])
    ids = Ragged.of(np.array([t for row in rows for t in row], np.int64), lengths)
    width = int(lengths.max())
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids.padded(width, 1), "attention_mask": mask}


def ours(path: Path, rows: tuple[tuple[int, ...], ...], **more: Any) -> list[list[int]]:
    backend, decoder = opened(path)
    decoder = DecoderConfig(**{**vars(decoder), "end_ids": ENDS})
    numbers = more.pop("numbers", None)
    tokens, _ = generate(
        backend, feeds_of(rows), decoder, GenerationConfig(**more), max_new_tokens=MOST,
        numbers=numbers,
    )  # fmt: skip
    return [row.tolist() for row in np.split(tokens.values, tokens.offsets[1:-1])]


def theirs(path: Path, rows: tuple[tuple[int, ...], ...], **more: Any) -> list[list[int]]:
    answers: dict[int, list[int]] = {}
    for length in {len(row) for row in rows}:
        numbers = [n for n, row in enumerate(rows) if len(row) == length]
        ids = torch.tensor([rows[n] for n in numbers])
        with torch.inference_mode():
            whole = model_of(path).generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=MOST,
                eos_token_id=list(ENDS), pad_token_id=1, **more,
            )  # fmt: skip
        for n, row in zip(numbers, whole[:, length:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in ENDS), MOST)
            answers[n] = row[:end]
    return [answers[n] for n in range(len(rows))]


def logits_of(path: Path, rows: tuple[tuple[int, ...], ...], forced: Ints) -> NDArray[Any]:
    """The checkpoint's, each row alone, in one pass without a cache."""
    steps = forced.shape[1]
    with torch.inference_mode():
        return np.stack(
            [
                model_of(path)(torch.tensor([[*row, *ids]]), use_cache=False)
                .logits[0, len(row) - 1 : len(row) - 1 + steps]
                .numpy()
                for row, ids in zip(rows, forced.tolist(), strict=True)
            ]
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens(name: str) -> None:
    answers = ours(checkpoint(name), prompts())
    assert answers == theirs(checkpoint(name), prompts())
    assert len({len(answer) for answer in answers}) > 5, "rows must end at different steps"


@pytest.mark.parametrize("name", SEARCHED)
def test_beams(name: str) -> None:
    rows = prompts(1)
    answers = ours(checkpoint(name), rows, num_beams=3)
    expected = theirs(checkpoint(name), rows, num_beams=3)
    equal = sum(a == b for a, b in zip(answers, expected, strict=True))
    assert equal >= 0.995 * len(rows)


@pytest.mark.parametrize("name", SEARCHED)
def test_sampled_rows_do_not_depend_on_the_batch(name: str) -> None:
    rows = prompts(2)[:48]
    order = np.random.default_rng(0).permutation(len(rows))
    settings: dict[str, Any] = {"do_sample": True, "top_k": 20, "temperature": 1.5}
    together = ours(checkpoint(name), rows, **settings)
    other = ours(checkpoint(name), tuple(rows[n] for n in order), numbers=order, **settings)
    assert [other[n] for n in np.argsort(order)] == together
    for n in (0, 17):
        assert ours(checkpoint(name), rows[n : n + 1], numbers=np.array([n]), **settings) == [
            together[n]
        ]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_prompts_that_begin_at_different_steps(name: str) -> None:
    """Two slots for three rows, the first of which ends soon: the third takes its place."""
    draw = np.random.default_rng(0)
    rows = tuple(tuple(draw.integers(3, 300, n).tolist()) for n in (5, 19, 40))
    forced = draw.integers(3, 300, (3, 10))
    expected = logits_of(checkpoint(name), rows, forced)
    tokens = forced.copy()
    tokens[0, 3] = -1
    backend, decoder = opened(checkpoint(name))
    logits = trace_logits(backend, feeds_of(rows), decoder, tokens, slots=2)
    expected[0, 4:] = logits[0, 4:] = 0
    assert np.abs(logits - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def _long(family: str, scaling: dict[str, Any] | None, **config: Any) -> Path:
    return checkpoint_of(
        checkpoints.rotary, family, max_position_embeddings=8192, rope_scaling=scaling, **config
    )


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("family", "scaling", "config"),
    [
        ("Llama", None, {}),
        ("Llama", LLAMA3, {}),
        ("Llama", YARN, {}),
        ("Llama", {"rope_type": "linear", "factor": 2.0}, {}),
        ("Llama", {"rope_type": "dynamic", "factor": 2.0}, {}),
        ("Mistral", None, {"sliding_window": 100}),
    ],
)
def test_four_thousand_tokens_of_context(
    family: str, scaling: dict[str, Any] | None, config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Cached in chunks, beside a short row; and as a whole."""
    path = _long(family, scaling, **config)
    draw = np.random.default_rng(0)
    rows = tuple(tuple(draw.integers(3, 300, n).tolist()) for n in (4000, 30))
    forced = draw.integers(3, 300, (2, 6))
    expected = logits_of(path, rows, forced)
    backend, decoder = opened(path)
    chunked = trace_logits(backend, feeds_of(rows), decoder, forced, slots=2)
    largest = max(1, np.abs(expected).max())
    assert np.abs(chunked - expected).max() < 1e-4 * largest
    monkeypatch.setattr(host_cache, "CHUNK", 1 << 20)
    whole = trace_logits(backend, feeds_of(rows), decoder, forced, slots=2)
    assert np.abs(chunked - whole).max() < 1e-5 * largest
    assert (chunked.argmax(-1) == whole.argmax(-1)).all()


LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + n / 8 for n in range(8)],
    "long_factor": [2.0 + n for n in range(8)],
}


def _two_factors() -> Path:
    """Phi-3's other rotary factors for rows of more than 400 tokens."""
    return checkpoint_of(
        checkpoints.rotary, "Phi3", hidden_size=64, rope_scaling=LONGROPE,
        original_max_position_embeddings=400,
    )  # fmt: skip


@pytest.mark.parametrize(("beams", "chunk", "each"), [(1, 512, 4), (3, 512, 1), (1, 150, 1)])
def test_rows_that_outgrow_the_first_rotary_factors(
    beams: int, chunk: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of 1 to 440 tokens, and 12 more: some begin short and pass the limit, or just reach
    it, some are long from the beginning."""
    monkeypatch.setattr(host_cache, "CHUNK", chunk)
    draw = np.random.default_rng(3)
    lengths = draw.permutation(np.repeat((1, 389, 394, 399, 400, 401, 440), each))
    rows = tuple(tuple(draw.integers(3, 300, n).tolist()) for n in lengths)
    answers = ours(_two_factors(), rows, num_beams=beams)
    # With its cache, generate() of transformers 4.57 leaves its own model's logits from the step on
    # in which a row passes the limit.
    expected = theirs(_two_factors(), rows, num_beams=beams, use_cache=False)
    assert answers == expected
    pairs = zip(rows, answers, strict=True)
    assert sum(len(row) <= 400 < len(row) + len(answer) - 1 for row, answer in pairs) >= 2


def test_the_other_rotary_factors_are_the_checkpoint_s() -> None:
    draw = np.random.default_rng(0)
    rows = tuple(tuple(draw.integers(3, 300, n).tolist()) for n in (5, 396, 430))
    forced = draw.integers(3, 300, (3, 8))
    backend, decoder = opened(_two_factors())
    assert decoder.long_from == 400
    logits = trace_logits(backend, feeds_of(rows), decoder, forced, slots=2)
    for row, ids, steps in zip(rows, forced.tolist(), logits, strict=True):
        for n, step in enumerate(steps):
            with torch.inference_mode():
                whole = model_of(_two_factors())(torch.tensor([[*row, *ids[:n]]]), use_cache=False)
            expected = whole.logits[0, -1].numpy()
            assert np.abs(step - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_a_gpu_is_refused_where_rotary_factors_change(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle_of(_two_factors(), "text-generation")
    assert {graph.role for graph in bundle_format.load(folder).graphs_for(CPU)} == {"step"}
    monkeypatch.setattr(pipeline, "resolve", Device)
    with pytest.raises(DeviceError, match="cuda:0 was asked for, and this model rotates") as caught:
        pipeline.Bundle.load(folder, device="cuda")
    assert "--device cpu" in caught.value.hint
    assert pipeline.Bundle.load(folder, device="cpu")(["A dog"]).num_rows == 1


def test_a_bounded_head_in_integers_proposes_a_shortlist() -> None:
    """Gemma 2's logits stay within the bound, and those of its best tokens are computed again."""
    import onnx

    path = bundle_of(checkpoint("gemma2"), "text-generation", "int8", force=True)
    nodes = onnx.load(path / "step.onnx", load_external_data=False).graph.node
    assert sum(node.op_type == "TopK" for node in nodes) == 2
    folder = bundle_format.load(path)
    decoder = folder.description.model_config.decoder
    assert decoder
    backend = OrtBackend(path, folder.graphs_for(CPU), device=CPU)
    draw = np.random.default_rng(0)
    rows = tuple(tuple(draw.integers(3, 300, n).tolist()) for n in (5, 19))
    forced = draw.integers(3, 300, (2, 10))
    logits = trace_logits(backend, feeds_of(rows), decoder, forced, slots=2)
    expected = logits_of(checkpoint("gemma2"), rows, forced)
    assert np.abs(logits).max() < 30
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert error < 0.2
