"""The exported graphs answer as the PyTorch checkpoint does, or there is no bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from engine.bundle import TOKENIZER, Facts, Generation
from engine.errors import ExportError

# Different in length, script and content, in one padded batch: a mask that leaks or a position that
# shifts shows in the short ones.
SENTENCES = (
    "Hello.",
    "The house is wonderful.",
    "A man in a blue shirt is standing on a ladder and cleaning a window.",
    "No",
    "In 1969, two people walked on the moon for 2 hours and 31 minutes.",
    "🎉 Great news!!! 🎉 We won, 3:2 after extra time 😀",
    "Ein Hund läuft über die grüne Wiese, und niemand ruft ihn zurück.",
    "Ça coûte déjà 12,50 €, n'est-ce pas?",
    "The film is slow, far too long and badly lit, yet I could not look away for a minute.",
    "今日は天気がいいですね。",
    "x = f(y) + 0.5 * [a, b]  # a line of code, with\ttabs and   spaces",
    "When the committee met again in the spring, after a winter in which nothing at all had been "
    "decided, the members who had left in anger came back, took their old seats, and voted, one "
    "after the other, for the very proposal they had fought in October, as if none of the long "
    "letters, the public speeches and the broken friendships had ever happened.",
)
STEPS = 16

# How far a recipe's numbers may be from the checkpoint's: the largest absolute difference as a
# share of max(1, the reference's largest absolute value), and the norm of the difference as a share
# of the reference's norm. fp32 only differs in the order of its sums: both measured below 1e-6
# (MiniLM, minilm-sst2, flan-t5-small). int8 measured 0.059 and 0.078 (MiniLM's hidden states),
# 0.072 and 0.049 (minilm-sst2's logits), 0.038 and 0.013 (flan-t5-small's logits). Weights whose
# zero point is off by one measured 1.2, 0.33 and 0.20 of the first, scales 10% too large 0.18, 0.32
# and 0.46. What a proof can not see are sums that saturate (0.061): a test of the recipe does.
TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "int8": 0.15}


_REPORT = "nothing was written; it is a fault of the engine or of Optimum: please report the model"


@dataclass(frozen=True)
class Proof:
    """What was compared and how far apart it was.

    Attributes:
        compared: Which output, in words.
        sentences: How many there were, in one padded batch.
        largest_difference: Largest absolute difference of one number.
        tolerance: The largest that was allowed, in the same unit.
        relative_error: Norm of the difference over the norm of the reference.
        relative_tolerance: The largest that was allowed of that.
    """

    compared: str
    sentences: int
    largest_difference: float
    tolerance: float
    relative_error: float
    relative_tolerance: float


@dataclass(frozen=True)
class Reference:
    """The checkpoint's own answers.

    Attributes:
        compared: Which output, in words.
        ids: Token ids of each sentence by the checkpoint's own tokenizer.
        forced: Decoder inputs (rows, steps), int64; None for an encoder.
        values: float32. Hidden states (rows, tokens, width); logits (rows, labels); or, under
            teacher forcing, logits (rows, steps, vocabulary).
    """

    compared: str
    ids: tuple[tuple[int, ...], ...]
    forced: Any
    values: Any


def ask(model: Any, tokenizer: Any, facts: Facts) -> Reference:
    """Let the PyTorch model answer `SENTENCES`.

    Do it before Optimum gets hold of the model: its export leaves other settings behind.
    """
    import torch

    texts = [facts.prefix + sentence for sentence in SENTENCES]
    batch = tokenizer(
        texts,
        truncation=True,
        max_length=facts.max_length,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    real = batch["attention_mask"] == 1
    ids = tuple(tuple(row[m].tolist()) for row, m in zip(batch["input_ids"], real, strict=True))
    with torch.no_grad():
        if facts.generation is not None:
            forced, logits = _greedy(model, batch, facts.generation.start_id)
            compared = f"the logits of {STEPS} teacher-forced steps"
            return Reference(compared, ids, forced.numpy(), logits.numpy())
        # A tokenizer may give token_type_ids to a model that has none.
        taken = signature(model.forward).parameters
        output = model(**{name: batch[name] for name in batch if name in taken})
    if "logits" in output:
        return Reference("the logits", ids, None, output["logits"].numpy())
    hidden = output["last_hidden_state"].numpy()
    return Reference("the hidden states of the real tokens", ids, None, hidden)


def _greedy(model: Any, batch: Mapping[str, Any], start_id: int) -> tuple[Any, Any]:
    """Decoder inputs (rows, steps) of a greedy decoding, and the logits of one pass over them.

    The decoding is written out because transformers' generate() would follow the checkpoint's
    beams, penalties and forced tokens, and stop at the end token; numbers behind it are as good for
    a comparison. The logits come from a pass without a cache, which the graphs are compared with.
    """
    import torch

    mask = batch["attention_mask"]
    memory = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask)
    shared = {"encoder_outputs": memory, "attention_mask": mask}
    tokens = torch.full((len(SENTENCES), 1), start_id, dtype=torch.int64)
    past = None
    while tokens.shape[1] < STEPS:
        step = model(
            **shared, decoder_input_ids=tokens[:, -1:], past_key_values=past, use_cache=True
        )
        past = step.past_key_values
        tokens = torch.cat([tokens, step.logits.argmax(-1)], dim=1)
    return tokens, model(**shared, decoder_input_ids=tokens, use_cache=False).logits


def prove(folder: Path, facts: Facts, reference: Reference, recipe: str) -> Proof:
    """Compare the bundle's files in `folder` with the checkpoint's answers.

    Token ids come from the bundle's tokenizer.json. Runs on ONNX Runtime's CPU provider.

    Raises:
        ExportError: Ids differ, or numbers by more than the recipe's tolerance.
    """
    import numpy as np

    batch = _encode(folder, facts)
    _check_ids(batch, reference)
    if facts.generation is None:
        expected, answer = _encoder(folder, batch, reference)
    else:
        steps = _steps(folder, facts.generation, batch, reference.forced)
        expected, answer = reference.values, np.concatenate(list(steps), axis=1)
    if expected.shape != answer.shape:
        raise ExportError(
            f"the proof failed: {reference.compared} have the shape {answer.shape}, "
            f"not {expected.shape}",
            _REPORT,
        )
    return _judged(reference.compared, expected, answer, recipe)


def _judged(compared: str, expected: Any, answer: Any, recipe: str) -> Proof:
    """Measure how far `answer` is from `expected`, and refuse it beyond the recipe's tolerance."""
    import numpy as np

    allowed = TOLERANCES[recipe]
    difference = float(np.max(np.abs(expected - answer)))
    tolerance = allowed * max(1.0, float(np.max(np.abs(expected))))
    norm = max(float(np.linalg.norm(expected)), 1e-30)
    relative = float(np.linalg.norm(expected - answer)) / norm
    # Written so that a NaN fails.
    if difference <= tolerance and relative <= allowed:
        return Proof(compared, len(SENTENCES), difference, tolerance, relative, allowed)
    raise ExportError(
        f"the proof failed: {compared} differ from the PyTorch checkpoint's by up to "
        f"{difference:.3g} ({tolerance:.3g} allowed for {recipe}), "
        f"by {relative:.3g} of their norm ({allowed:.3g} allowed)",
        _REPORT if recipe == "fp32" else "nothing was written; export with --recipe fp32",
    )


def _encode(folder: Path, facts: Facts) -> dict[str, Any]:
    """`SENTENCES` in one padded batch, by the bundle's tokenizer.json.

    Returns:
        input_ids, attention_mask and token_type_ids, int64 (rows, tokens).
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(facts.max_length)
    tokenizer.enable_padding(pad_id=facts.pad_id)
    rows = tokenizer.encode_batch([facts.prefix + sentence for sentence in SENTENCES])
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
    }


def _check_ids(batch: Mapping[str, Any], reference: Reference) -> None:
    pairs = zip(batch["input_ids"], batch["attention_mask"], reference.ids, strict=True)
    if any(ids[mask == 1].tolist() != list(own) for ids, mask, own in pairs):
        raise ExportError(
            "the proof failed: tokenizer.json gives other ids than the checkpoint's tokenizer "
            "in transformers",
            _REPORT,
        )


def _encoder(folder: Path, batch: Mapping[str, Any], reference: Reference) -> tuple[Any, Any]:
    """Reference and answer: logits (rows, labels) or the real tokens' states (tokens, width)."""
    session = _session(folder / "model.onnx")
    fed = {i.name: batch[i.name] for i in session.get_inputs()}
    (answer,) = _run(session, fed).values()
    if answer.ndim == 2:
        return reference.values, answer
    real = batch["attention_mask"] == 1
    return reference.values[real], answer[real]


def _steps(
    folder: Path, generation: Generation, batch: Mapping[str, Any], forced: Any
) -> Iterator[Any]:
    """Logits (rows, 1, vocabulary) of one decoder step after the other, from an empty cache."""
    import numpy as np

    encoder, decoder = _session(folder / "encoder.onnx"), _session(folder / "decoder.onnx")
    mask = batch["attention_mask"]
    cross = _run(encoder, {"input_ids": batch["input_ids"], "attention_mask": mask})
    empty = np.zeros((len(mask), generation.heads, 0, generation.head_dim), np.float32)
    past = {i.name: empty for i in decoder.get_inputs() if i.name.startswith("past.")}
    for step in range(forced.shape[1]):
        tokens = forced[:, step : step + 1]
        fed = {"input_ids": tokens, "encoder_attention_mask": mask, **cross, **past}
        outputs = _run(decoder, fed)
        yield outputs.pop("logits")
        past = {name.replace("present.", "past."): value for name, value in outputs.items()}


def _session(file: Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes are not public
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ExportError(
            f"the proof failed: ONNX Runtime does not load {file.name}: {reason}", _REPORT
        ) from error


def _run(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
