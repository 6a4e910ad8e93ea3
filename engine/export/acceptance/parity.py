"""The exported graphs give the PyTorch checkpoint's outputs, or there is no bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import DecoderConfig, ModelConfig
from engine.core.device import CPU, Device
from engine.core.graphs import GraphRecord, Role
from engine.core.types import Ints
from engine.errors import ExportError
from engine.export.acceptance.reference import Reference, real_values
from engine.export.graphs import dense, storage
from engine.export.graphs.records import FLAT
from engine.export.sentences import SENTENCES, encode
from engine.measures.vectors import relative_error

# How far the fp32 graphs' numbers may be from the checkpoint's: the largest absolute difference as
# a share of max(1, the reference's largest absolute value), and the relative error. Only the order
# of sums differs: both measured below 1e-6 (MiniLM, minilm-sst2, flan-t5-small).
TOLERANCE = 1e-4
# Some networks amplify rounding error, so a different summation order alone can exceed the
# tolerance. Then the checkpoint runs once more in double precision, and the graphs may be off by
# its own float32 error times `_MARGIN`, since both round, and differently; but by no more than
# `_LIMIT`.
_MARGIN = 10
_LIMIT = 1e-2

_DAMAGED = (
    "nothing was written; they are no numbers (nan): weights that are nan or infinite are the most "
    "likely reason, so fetch or save the checkpoint once more"
)
_REPORT = "nothing was written; it is a fault of the engine or of Optimum: please report the model"


@dataclass(frozen=True)
class ParityReport:
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
        # Written so that NaN fails.
        near = self.largest_difference <= self.tolerance
        return near and self.relative_error <= self.relative_tolerance


def check_parity(
    folder: Path,
    model_config: ModelConfig,
    graphs: Sequence[GraphRecord],
    references: Sequence[Reference],
    layers: Sequence[dense.Layer] = (),
    exact: Callable[[Sequence[Reference]], Sequence[Reference]] | None = None,
) -> ParityReport:
    """Compare the bundle's files in `folder` with the checkpoint's outputs.

    Token ids come from the bundle's tokenizer.json. Runs on ONNX Runtime's CPU provider.

    Args:
        graphs: The bundle's.
        layers: The Dense layers that the graph `dense` was made from.
        exact: Gives the checkpoint's outputs in double precision, along the tokens of these; called
            only where a comparison fails without.

    Returns:
        The comparison that came nearest to its tolerance; `compared` names all of them.

    Raises:
        ExportError: Ids differ, or numbers by more than `TOLERANCE` and more than the checkpoint's
            own rounding allows.
    """
    cpu, cuda = CPU, Device("cuda")
    apart = any(graph.file in FLAT.values() for graph in graphs)
    devices = [cpu, cuda] if model_config.decoder or apart else [cpu]
    reports = [
        _compare(folder, model_config, [g for g in graphs if g.loads_on(device)], reference)
        for device in devices
        for reference in references
    ]
    if exact and not all(report.holds for report in reports):
        # A model that cannot run in double precision is held to the tolerance alone.
        with suppress(RuntimeError):
            reports = _widened(reports, references, exact(references))
    if layers:
        count = len(model_config.pooling.split("+"))
        file = _file(folder, graphs, "dense")
        reports.append(_compare_projection(file, references[0], layers, count))
    for report in reports:
        _check(report)
    nearest = max(reports, key=lambda report: report.largest_difference / report.tolerance)
    compared = " and ".join(dict.fromkeys(report.compared for report in reports))
    rows = sum(len(reference.ids) for reference in references)
    return dataclasses.replace(nearest, compared=compared, sentences=rows)


def _widened(
    reports: Sequence[ParityReport], references: Sequence[Reference], exact: Sequence[Reference]
) -> list[ParityReport]:
    """Reports, one or two a reference, with tolerances that the checkpoint's rounding allows."""
    rounding = [
        measure(one.compared, sure.values, one.values)
        for one, sure in zip(references, exact, strict=True)
    ]
    return [
        dataclasses.replace(
            report,
            tolerance=_tolerance(report.tolerance, own.largest_difference),
            relative_tolerance=_tolerance(TOLERANCE, own.relative_error),
        )
        for report, own in zip(reports, rounding * (len(reports) // len(rounding)), strict=True)
    ]


def _tolerance(default: float, rounding: float) -> float:
    """`_MARGIN` times the rounding error where that exceeds the default; but the default where even
    `_LIMIT` is exceeded, or where it is NaN."""
    allowed = _MARGIN * rounding
    return max(default, allowed) if allowed <= _LIMIT / TOLERANCE * default else default


def _file(folder: Path, graphs: Sequence[GraphRecord], role: Role) -> Path:
    return folder / next(graph.file for graph in graphs if graph.role == role)


def _compare_projection(
    file: Path, reference: Reference, layers: Sequence[dense.Layer], count: int
) -> ParityReport:
    """The graph `dense`, which stays in float32, on the first token's state of every row, `count`
    times side by side."""
    starts = np.cumsum([0, *map(len, reference.ids[:-1])])
    embedding = np.tile(reference.values[starts], (1, count))
    outputs = _run(storage.session(file), {"embedding": embedding})
    expected = dense.reference(layers, embedding)
    return measure("the projected embeddings", expected, outputs["projected"])


def _compare(
    folder: Path, model_config: ModelConfig, graphs: Sequence[GraphRecord], reference: Reference
) -> ParityReport:
    """The outputs of the graphs that a device loads, with the checkpoint's."""
    batch = encode(folder, model_config, reference.paired)
    _check_tokens(batch, reference)
    if model_config.decoder is None:
        actual = _encoder_values(_file(folder, graphs, "model"), batch)
    else:
        assert reference.forced is not None
        actual = _step_logits(folder, model_config.decoder, graphs, batch, reference.forced)
    if reference.values.shape != actual.shape:
        raise ExportError(
            f"the parity check failed: {reference.compared} have the shape {actual.shape}, "
            f"not {reference.values.shape}",
            _REPORT,
        )
    return measure(reference.compared, reference.values, actual)


def measure(compared: str, expected: NDArray[Any], actual: NDArray[Any]) -> ParityReport:
    """How far numbers are from the expected ones, and may be."""
    difference = float(np.max(np.abs(expected - actual)))
    tolerance = TOLERANCE * max(1.0, float(np.max(np.abs(expected))))
    error = relative_error(expected, actual)
    return ParityReport(compared, len(SENTENCES), difference, tolerance, error, TOLERANCE)


def _check(report: ParityReport) -> None:
    if report.holds:
        return
    raise ExportError(
        f"the parity check failed: {report.compared} differ from the PyTorch checkpoint's by up to "
        f"{report.largest_difference:.3g} ({report.tolerance:.3g} allowed), "
        f"relative error {report.relative_error:.3g} ({report.relative_tolerance:.3g} allowed)",
        _DAMAGED if np.isnan(report.largest_difference) else _REPORT,
    )


def _check_tokens(batch: Mapping[str, NDArray[Any]], reference: Reference) -> None:
    rows = zip(batch["input_ids"], batch["attention_mask"], reference.ids, strict=True)
    if any(ids[mask == 1].tolist() != list(expected) for ids, mask, expected in rows):
        raise ExportError(
            "the parity check failed: tokenizer.json gives other ids than the checkpoint's "
            "tokenizer in transformers",
            _REPORT,
        )
    if reference.spans is not None and (batch["spans"] != reference.spans).any():
        raise ExportError(
            "the parity check failed: tokenizer.json gives the tokens other offsets in the text "
            "than the checkpoint's tokenizer in transformers",
            _REPORT,
        )


def _encoder_values(file: Path, batch: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Logits (rows, labels), or states or logits of the real tokens (tokens, width)."""
    session = storage.session(file)
    outputs = _run(session, {i.name: batch[i.name] for i in session.get_inputs()})
    return real_values(outputs, batch["attention_mask"] == 1)[1]


def _step_logits(
    folder: Path,
    decoder: DecoderConfig,
    graphs: Sequence[GraphRecord],
    batch: Mapping[str, Ints],
    forced: Ints,
) -> NDArray[np.float32]:
    """Logits (rows, steps, vocabulary) of a step graph, the CPU's or a GPU's, both on the CPU.

    Half of the rows go first, cut to one to three steps, and only as many are decoded at once: so
    all rows begin in slots that others have left, and at different times, as in a run.
    """
    from engine.generation import trace_logits
    from engine.runtime.backend import OrtBackend

    backend = OrtBackend(folder, graphs, device=CPU, threads=0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    # The tokens that each step yields: the start token, or a prompt's last one, is only read.
    following = forced if decoder.causal else forced[:, 1:]
    if decoder.causal:
        ids, mask = _padded_right(ids, mask)
    rows, short = len(following), len(following) // 2
    order = np.concatenate([np.arange(short), np.arange(rows)])
    tokens = np.pad(following[order], ((0, 0), (0, 1)), constant_values=-1)
    tokens[np.arange(short), np.arange(short) % 3] = -1
    feeds = {"input_ids": ids[order], "attention_mask": mask[order]}
    return trace_logits(backend, feeds, decoder, tokens, slots=short)[short:]


def _padded_right(ids: Ints, mask: Ints) -> tuple[Ints, Ints]:
    """Ids and mask of rows padded on the left, padded on the right."""
    lengths = mask.sum(axis=1)[:, None]
    positions = np.arange(ids.shape[1])
    real = positions < lengths
    shifted = np.take_along_axis(ids, (positions - lengths) % ids.shape[1], axis=1)
    return np.where(real, shifted, 0), real.astype(np.int64)


def _run(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
