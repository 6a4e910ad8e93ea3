"""The exported graphs answer as the PyTorch checkpoint does, or there is no bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from engine.bundle.format import RESIDENT, STEP, TOKENIZER, DecoderConfig, ModelConfig
from engine.core.device import CPU
from engine.errors import ExportError
from engine.export.graphs import dense, storage
from engine.export.sentences import SENTENCES

# Sentences by number, for encoders: a short text with a long one, both ways, scripts mixed.
PAIRS = ((0, 11), (11, 3), (5, 9), (6, 2))
STEPS = 16
_FORCED = f"the logits of {STEPS} teacher-forced steps"

# How far the fp32 graphs' numbers may be from the checkpoint's: the largest absolute difference as
# a share of max(1, the reference's largest absolute value), and the norm of the difference as a
# share of the reference's norm. Only the order of sums differs: both measured below 1e-6 (MiniLM,
# minilm-sst2, flan-t5-small).
TOLERANCE = 1e-4
# Some networks make much of little, and another CPU's order of sums is enough to pass that. Then
# the checkpoint answers once more in double precision, and the graphs may be as far off as its own
# float32 answers are, this many times over, since both round, and not alike; up to a limit.
_MARGIN = 10
_LIMIT = 1e-2

_REPORT = "nothing was written; it is a fault of the engine or of Optimum: please report the model"


@dataclass(frozen=True)
class Proof:
    """What was compared and how far apart it was.

    Attributes:
        compared: Which output, in words.
        sentences: How many rows there were, in padded batches.
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

    @property
    def holds(self) -> bool:
        # Written so that a NaN does not.
        near = self.largest_difference <= self.tolerance
        return near and self.relative_error <= self.relative_tolerance


@dataclass(frozen=True)
class Reference:
    """The checkpoint's own answers.

    Attributes:
        compared: Which output, in words.
        ids: Token ids of each sentence by the checkpoint's own tokenizer.
        forced: Decoder inputs (rows, steps), int64, those behind the prompt for a causal model;
            None for an encoder.
        values: float32, or float64 of a checkpoint in double precision. States or logits of the
            real tokens (tokens, width); logits (rows, labels); or, under teacher forcing, logits
            (rows, steps, vocabulary).
        spans: An encoder's characters of each token, (rows, tokens, 2), padding included.
        paired: The rows are `PAIRS`, not `SENTENCES`.
    """

    compared: str
    ids: tuple[tuple[int, ...], ...]
    forced: Any
    values: Any
    spans: Any = None
    paired: bool = False


def ask(
    model: Any, tokenizer: Any, model_config: ModelConfig, like: Sequence[Reference] = ()
) -> tuple[Reference, ...]:
    """Let the PyTorch model answer `SENTENCES`, and `PAIRS` where it is an encoder.

    Do it before Optimum gets hold of the model: its export leaves other settings behind.

    Args:
        like: Earlier answers, whose tokens a decoder is to go along.
    """
    import torch

    along = like[0].forced if like else None
    texts = [model_config.prefix + sentence for sentence in SENTENCES]
    if model_config.decoder is None:
        told = (_ask_encoder(model, tokenizer, model_config, paired) for paired in (False, True))
        return tuple(told)
    if model_config.decoder.causal:
        return (_ask_causal(model, tokenizer, texts, _kept(model_config), along),)
    batch = tokenizer(
        texts,
        truncation=True,
        max_length=_kept(model_config),
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    real = batch["attention_mask"] == 1
    ids = tuple(tuple(row[m].tolist()) for row, m in zip(batch["input_ids"], real, strict=True))
    with torch.no_grad():
        forced, logits = _greedy(model, batch, model_config.decoder.start_id, along)
    return (Reference(_FORCED, ids, forced.numpy(), logits.numpy()),)


def _ask_encoder(model: Any, tokenizer: Any, model_config: ModelConfig, paired: bool) -> Reference:
    import torch

    rows = _rows(model_config, paired)
    batch = tokenizer(
        *(list(texts) for texts in (zip(*rows, strict=True) if paired else [rows])),
        truncation=True,
        max_length=model_config.max_length,
        padding=True,
        padding_side="right",
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    spans = batch.pop("offset_mapping").numpy()
    real = batch["attention_mask"].numpy() == 1
    found = zip(batch["input_ids"].numpy(), real, strict=True)
    ids = tuple(tuple(row[mask].tolist()) for row, mask in found)
    # A tokenizer may give token_type_ids to a model that has none.
    taken = signature(model.forward).parameters
    with torch.no_grad():
        output = model(**{name: batch[name] for name in batch if name in taken})
    compared, values = _real_values({n: output[n] for n in output if n in _OUTPUTS}, real)
    return Reference(compared, ids, None, values, spans, paired)


def _rows(model_config: ModelConfig, paired: bool) -> list[Any]:
    if paired:
        return [(SENTENCES[first], SENTENCES[second]) for first, second in PAIRS]
    return [model_config.prefix + sentence for sentence in SENTENCES]


_OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")


def _real_values(outputs: Mapping[str, Any], real: Any) -> tuple[str, Any]:
    """What an encoder's outputs are, in words, and their numbers without those of the padding."""
    import numpy as np

    values = [np.asarray(outputs[name]) for name in _OUTPUTS if name in outputs]
    what = "hidden states" if "last_hidden_state" in outputs else "logits"
    if "start_logits" in outputs:
        return "the start and end logits of the real tokens", np.stack(values, axis=-1)[real]
    if values[0].ndim == 3:
        return f"the {what} of the real tokens", values[0][real]
    return f"the {what}", values[0]


def _kept(model_config: ModelConfig) -> int:
    """Tokens of a row in the proof: a causal model's steps need positions behind the prompt."""
    generates = model_config.decoder is not None and model_config.decoder.causal
    if generates and model_config.position_limit:
        return min(model_config.max_length, model_config.position_limit - STEPS)
    return model_config.max_length


def _ask_causal(
    model: Any, tokenizer: Any, texts: list[str], kept: int, along: Any = None
) -> Reference:
    """Let a causal model go on from each prompt alone, greedily or along given tokens.

    No prompt is padded here, while the graphs get them all in one batch padded on the left: a mask
    or a position that does not hold there shows. As in `_greedy`, the tokens come from steps with a
    cache and the logits from one pass without.
    """
    import numpy as np
    import torch

    ids = tuple(tuple(tokenizer(t, truncation=True, max_length=kept).input_ids) for t in texts)
    forced, values = [], []
    for n, prompt in enumerate(ids):
        start = prompt if along is None else (*prompt, *along[n])
        tokens, past = torch.tensor([start]), None
        with torch.no_grad():
            while tokens.shape[1] < len(prompt) + STEPS - 1:
                fed = tokens if past is None else tokens[:, -1:]
                step = model(input_ids=fed, past_key_values=past, use_cache=True)
                past = step.past_key_values
                tokens = torch.cat([tokens, step.logits[:, -1:].argmax(-1)], dim=1)
            logits = model(input_ids=tokens, use_cache=False).logits
        forced.append(tokens[0, len(prompt) :].numpy())
        values.append(logits[0, len(prompt) - 1 :].numpy())
    return Reference(_FORCED, ids, np.stack(forced), np.stack(values))


def _greedy(
    model: Any, batch: Mapping[str, Any], start_id: int, along: Any = None
) -> tuple[Any, Any]:
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
    tokens = tokens if along is None else torch.from_numpy(along)
    past = None
    while tokens.shape[1] < STEPS:
        step = model(
            **shared, decoder_input_ids=tokens[:, -1:], past_key_values=past, use_cache=True
        )
        past = step.past_key_values
        tokens = torch.cat([tokens, step.logits.argmax(-1)], dim=1)
    return tokens, model(**shared, decoder_input_ids=tokens, use_cache=False).logits


def prove(
    folder: Path,
    model_config: ModelConfig,
    references: Sequence[Reference],
    layers: Sequence[dense.DenseLayer] = (),
    exact: Callable[[Sequence[Reference]], Sequence[Reference]] | None = None,
) -> Proof:
    """Compare the bundle's files in `folder` with the checkpoint's answers.

    Token ids come from the bundle's tokenizer.json. Runs on ONNX Runtime's CPU provider.

    Args:
        layers: The Dense layers that dense.onnx was made of.
        exact: The checkpoint's answers in double precision, along the tokens of these; asked for
            only where a comparison does not hold without.

    Returns:
        The comparison that came nearest to its tolerance; `compared` names all of them.

    Raises:
        ExportError: Ids differ, or numbers by more than `TOLERANCE` and more than the checkpoint's
            own rounding allows.
    """
    found = [_compared(folder, model_config, reference) for reference in references]
    if (folder / RESIDENT[0]).exists():
        found += [_compared(folder, model_config, reference, "cuda") for reference in references]
    if exact and not all(one.holds for one in found):
        # A model that cannot be run in double precision is held to the tolerance alone.
        with suppress(RuntimeError):
            found = _allowed(found, references, exact(references))
    if layers:
        found.append(_projected(folder, references[0], layers))
    for one in found:
        _check(one)
    nearest = max(found, key=lambda one: one.largest_difference / one.tolerance)
    said = dict.fromkeys(one.compared for one in found)
    return dataclasses.replace(
        nearest,
        compared=" and ".join(said),
        sentences=sum(len(reference.ids) for reference in references),
    )


def _allowed(
    found: Sequence[Proof], references: Sequence[Reference], exact: Sequence[Reference]
) -> list[Proof]:
    """The comparisons, once or twice over the references, allowed what the checkpoint allows
    itself."""
    own = [
        _measured(one.compared, sure.values, one.values)
        for one, sure in zip(references, exact, strict=True)
    ]
    most = _LIMIT / TOLERANCE
    return [
        dataclasses.replace(
            one,
            tolerance=_between(one.tolerance, _MARGIN * mine.largest_difference, most),
            relative_tolerance=_between(TOLERANCE, _MARGIN * mine.relative_error, most),
        )
        for one, mine in zip(found, own * (len(found) // len(own)), strict=True)
    ]


def _between(usual: float, own: float, most: float) -> float:
    """`own`, but no less than usual and no more than so many times that; a NaN is no more."""
    return max(usual, own) if own <= most * usual else usual


def _projected(folder: Path, reference: Reference, layers: Sequence[dense.DenseLayer]) -> Proof:
    """dense.onnx, which stays in float32, on the first token's state of every row."""
    import numpy as np

    starts = np.cumsum([0, *map(len, reference.ids[:-1])])
    embedding = np.ascontiguousarray(reference.values[starts])
    answer = _run(storage.session(folder / "dense.onnx"), {"embedding": embedding})["projected"]
    expected = dense.reference(layers, embedding)
    return _measured("the projected embeddings", expected, answer)


def _compared(
    folder: Path, model_config: ModelConfig, reference: Reference, device: str = "cpu"
) -> Proof:
    """With the graphs that a device loads."""
    batch = encode(folder, model_config, reference.paired)
    _check_ids(batch, reference)
    if model_config.decoder is None:
        expected, answer = _encoder(folder, batch, reference)
    else:
        expected = reference.values
        answer = _staggered(folder, model_config.decoder, batch, reference.forced, device)
    if expected.shape != answer.shape:
        raise ExportError(
            f"the proof failed: {reference.compared} have the shape {answer.shape}, "
            f"not {expected.shape}",
            _REPORT,
        )
    return _measured(reference.compared, expected, answer)


def _measured(compared: str, expected: Any, answer: Any) -> Proof:
    """How far `answer` is from `expected`, and may be."""
    import numpy as np

    difference = float(np.max(np.abs(expected - answer)))
    tolerance = TOLERANCE * max(1.0, float(np.max(np.abs(expected))))
    norm = max(float(np.linalg.norm(expected)), 1e-30)
    relative = float(np.linalg.norm(expected - answer)) / norm
    return Proof(compared, len(SENTENCES), difference, tolerance, relative, TOLERANCE)


def _check(proof: Proof) -> None:
    if proof.holds:
        return
    raise ExportError(
        f"the proof failed: {proof.compared} differ from the PyTorch checkpoint's by up to "
        f"{proof.largest_difference:.3g} ({proof.tolerance:.3g} allowed), "
        f"by {proof.relative_error:.3g} of their norm ({proof.relative_tolerance:.3g} allowed)",
        _REPORT,
    )


def encode(folder: Path, model_config: ModelConfig, paired: bool = False) -> dict[str, Any]:
    """`SENTENCES` or `PAIRS` in one padded batch, by the bundle's tokenizer.json.

    Returns:
        input_ids, attention_mask and token_type_ids, int64 (rows, tokens); spans, the characters of
        each token, int64 (rows, tokens, 2).
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(_kept(model_config))
    causal = model_config.decoder is not None and model_config.decoder.causal
    tokenizer.enable_padding(pad_id=model_config.pad_id, direction="left" if causal else "right")
    rows = tokenizer.encode_batch(_rows(model_config, paired))
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
        "spans": np.array([row.offsets for row in rows], np.int64),
    }


def _check_ids(batch: Mapping[str, Any], reference: Reference) -> None:
    pairs = zip(batch["input_ids"], batch["attention_mask"], reference.ids, strict=True)
    if any(ids[mask == 1].tolist() != list(own) for ids, mask, own in pairs):
        raise ExportError(
            "the proof failed: tokenizer.json gives other ids than the checkpoint's tokenizer "
            "in transformers",
            _REPORT,
        )
    if reference.spans is not None and (batch["spans"] != reference.spans).any():
        raise ExportError(
            "the proof failed: tokenizer.json gives the tokens other places in the text than the "
            "checkpoint's tokenizer in transformers",
            _REPORT,
        )


def _encoder(folder: Path, batch: Mapping[str, Any], reference: Reference) -> tuple[Any, Any]:
    """Reference and answer: logits (rows, labels) or those of the real tokens (tokens, width)."""
    session = storage.session(folder / "model.onnx")
    fed = {i.name: batch[i.name] for i in session.get_inputs()}
    _, answer = _real_values(_run(session, fed), batch["attention_mask"] == 1)
    return reference.values, answer


def _staggered(
    folder: Path, generation: DecoderConfig, batch: Mapping[str, Any], forced: Any, device: str
) -> Any:
    """Logits (rows, steps, vocabulary) of a step graph, the CPU's or a GPU's, both on the CPU.
    Every third row begins at once, the others one and two steps later, as rows do in a run."""
    import numpy as np

    from engine.generation.device_cache import DeviceCache
    from engine.generation.host_cache import HostCache
    from engine.runtime.backend import OrtBackend

    causal = generation.causal
    graphs = [STEP] if device == "cpu" else [n for n in RESIDENT if (folder / n).exists()]
    graphs += [] if causal else ["encoder.onnx"]
    backend = OrtBackend(folder, graphs, device=CPU, threads=0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if causal:
        # A slot's prompt begins at its first place, and its last token is the first step's.
        ids, mask = _from_the_left(ids, mask)
        last = ids[np.arange(len(ids)), mask.sum(axis=1) - 1]
        forced = np.concatenate([last[:, None], forced], axis=1)
    rows, steps = forced.shape
    most = steps + (ids.shape[1] if causal else 0)
    feeds = {"input_ids": ids, "attention_mask": mask}
    kind = HostCache if device == "cpu" else DeviceCache
    cache = kind(backend, generation, feeds, width=1, most=most, picks=1)
    if cache.slots < rows:
        raise ExportError(
            f"the proof needs room for {rows} rows at once, and {cache.slots} fit", _REPORT
        )
    late, every = np.arange(rows) % 3, np.arange(rows)
    logits = np.empty((rows, steps, generation.vocabulary), np.float32)
    for step in range(steps + 2):
        if len(came := np.flatnonzero(late == step)):
            cache.admit(came, came)
        own = np.clip(step - late, 0, steps - 1)
        on = np.flatnonzero((step >= late) & (step - late < steps))
        cache.set_lengths(every, cache.bases[:rows] + own)
        fed = np.zeros(cache.slots, np.int64)
        fed[:rows] = forced[every, own]
        cache.step(fed)
        logits[on, own[on]] = cache.logits()[on]
    return logits


def _from_the_left(ids: Any, mask: Any) -> tuple[Any, Any]:
    """Rows padded on the left as rows padded on the right."""
    import numpy as np

    lengths = mask.sum(axis=1)[:, None]
    place = np.arange(ids.shape[1])
    real = place < lengths
    moved = np.take_along_axis(ids, (place + ids.shape[1] - lengths) % ids.shape[1], axis=1)
    return np.where(real, moved, 0), real.astype(np.int64)


def _run(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
