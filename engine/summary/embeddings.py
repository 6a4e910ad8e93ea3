"""Embeddings: their norms, which are nearly the same, and where they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.measures.bins import SCORE, Bins
from engine.measures.components import Moments, Sample, components_of
from engine.measures.near_duplicates import MOST, NEAR, NearDuplicates, NearPairs
from engine.measures.rankings import is_list
from engine.pages.blocks import Block, Histogram, Points, Section, Table
from engine.summary.answers import Answers, Batch
from engine.summary.figures import MOST_VALUES, OTHER, Spread, pairs, share, spread_table
from engine.summary.looks import Floats, Look

POINTS = 1500
"""Embeddings that are drawn."""
WIDEST = 1024
"""Numbers of an embedding up to which components are of all embeddings, else of those drawn."""
_NO_VALUE = "no value"


@dataclass(frozen=True)
class Vectors:
    """All vectors of rows.

    Attributes:
        values: float64 (vectors, width).
        counts: int64 (rows,): how many each row has.
    """

    values: Floats
    counts: NDArray[np.int64]

    @property
    def are_usable(self) -> NDArray[np.bool_]:
        """Which vectors have a direction, (vectors,): neither 0 nor with a NaN."""
        norms = self.norms
        return np.isfinite(norms) & (norms > 0)

    @property
    def norms(self) -> Floats:
        """Lengths, float64 (vectors,)."""
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", self.values, self.values)))


class EmbeddingSummary:
    """Embeddings of rows, or of their chunks or tokens.

    Args:
        answers: Which are read once more where only some are looked at more closely.
        colour: The kept column by whose values points are coloured, "" for none.
    """

    def __init__(self, answers: Answers, colour: str) -> None:
        self._answers, self._colour = answers, colour
        self.reads = (colour,) if colour else ()
        self._is_nested = is_list(answers.results["embedding"].value_type)
        self._are_tokens = self._is_nested and "start" not in answers.results
        self._norms, self._per_row = Spread(), Spread(is_whole=True, unit="vectors")
        self._usable = self._unusable = 0
        self._near, self._sample, self._moments = NearDuplicates(), Sample(POINTS), Moments()
        # The part and the place in it of each vector that is compared.
        self._parts: list[tuple[int, NDArray[np.int64]]] = []

    def add(self, batch: Batch) -> Look:
        vectors = vectors_of(batch.results)
        self._per_row.add(vectors.counts)
        self._norms.add(vectors.norms)
        usable = vectors.are_usable
        self._usable += int(usable.sum())
        self._unusable += int((~usable).sum())
        if not self._are_tokens and usable.any():
            values = vectors.values[usable]
            if self._near.rows < MOST:
                places = np.repeat(batch.places, vectors.counts)[usable]
                self._parts.append((batch.entry, places))
            self._near.add(values)
            self._sample.add(values, self._tags(vectors, batch.kept).filter(pa.array(usable)))
            if values.shape[1] <= WIDEST:
                self._moments.add(values)
        return Look(np.full(len(batch.places), np.nan))

    def _tags(self, vectors: Vectors, kept: pa.Table) -> pa.Array:
        if not self._colour:
            return pa.nulls(len(vectors.values), pa.large_string())
        rows = np.repeat(np.arange(len(vectors.counts)), vectors.counts)
        tags = pc.fill_null(pc.cast(kept[self._colour], pa.large_string()), _NO_VALUE)
        return tags.combine_chunks().take(pa.array(rows))

    def sections(self) -> list[Section]:
        spreads = {"norm": self._norms}
        if self._is_nested:
            spreads["vectors of a row"] = self._per_row
        unusable = pairs({"vectors that are 0 or have a NaN": self._unusable or None})
        blocks: list[Block] = [self._norms.histogram("Norms of embeddings."), spread_table(spreads)]
        norms = Section("Norms", [*blocks, *([unusable] if unusable.rows else [])])
        if self._near.rows < 2:
            return [norms]
        return [norms, self._near_section(self._near.found(self._again)), self._map()]

    def _near_section(self, found: NearPairs) -> Section:
        blocks: list[Block] = [_near_figures(found)]
        if found.nearest is not None:
            blocks.append(_nearest(found.nearest))
        if found.most_alike:
            blocks.append(self._most_alike(found))
        return Section("Near-duplicates", blocks, _near_note(found))

    def _most_alike(self, found: NearPairs) -> Table:
        sides = zip(*((a, b) for a, b, _ in found.most_alike), strict=True)
        names = (self._answers.row_names(self._places(side)) for side in sides)
        cosines = [cosine for *_, cosine in found.most_alike]
        rows = list(zip(*names, cosines, strict=True))
        head = ("row", "another row", "cosine")
        return Table(rows=rows, head=head, caption="Some that are most alike.")

    def _places(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Of vectors that are compared the part and the place in it."""
        starts = np.cumsum([0, *(len(places) for _, places in self._parts)])
        parts = np.searchsorted(starts, numbers, side="right") - 1
        return [
            (self._parts[part][0], int(self._parts[part][1][number - starts[part]]))
            for part, number in zip(parts.tolist(), numbers, strict=True)
        ]

    def _again(self) -> Iterator[Floats]:
        """All vectors that are usable, once more."""
        for batch in self._answers.batches():
            answered = batch.results.filter(pc.is_valid(batch.results[0]))
            vectors = vectors_of(answered)
            yield vectors.values[vectors.are_usable]

    def _map(self) -> Section:
        sample = self._sample.vectors.astype(np.float64)
        if self._moments.rows:
            mean, (directions, shares) = self._moments.mean, self._moments.components(2)
        else:
            mean, (directions, shares) = sample.mean(axis=0), components_of(sample, 2)
        x, y = (sample - mean) @ directions.T[:, 0], (sample - mean) @ directions.T[:, 1]
        groups = _groups(self._sample.tags.to_pylist()) if self._colour else ()
        caption = f"{len(sample):,} of {self._usable:,} embeddings."
        points = Points(x=x.tolist(), y=y.tolist(), groups=groups, caption=caption)
        note = (
            f"The two directions in which embeddings vary most, which have {shares[0]:.1%} and "
            f"{shares[1]:.1%} of the variance."
        )
        return Section("Principal components", [points], note)


def _near_figures(found: NearPairs) -> Table:
    return pairs(
        {
            "embeddings": found.rows,
            "equal to an earlier one": share(found.identical, found.rows),
            f"with another one at a cosine of {NEAR} or more": share(found.near, found.rows),
            "such pairs": found.pairs,
        }
    )


def _near_note(found: NearPairs) -> str:
    if found.nearest is not None:
        return "Every pair was looked at."
    most = f"The first {MOST:,} were looked at. " if found.rows == MOST else ""
    return (
        f"{most}Pairs were looked for by random hyperplanes, which find {found.recall:.0%} of "
        f"those at a cosine of {NEAR} and nearly all at 0.99; of many that are alike, not every "
        "pair is counted."
    )


def _nearest(cosines: Floats) -> Histogram:
    bins = Bins(SCORE)
    bins.add(cosines)
    edges, counts = bins.shown()
    caption = "Cosine of each embedding with the one nearest to it."
    return Histogram(edges=edges.tolist(), counts=counts.tolist(), caption=caption)


def _groups(tags: list[str]) -> list[str]:
    """A group of each point: its tag, but for those that are not among the most common ones."""
    ordered = sorted(Counter(tags).items(), key=lambda one: (-one[1], one[0]))
    shown = {tag for tag, _ in ordered[:MOST_VALUES]}
    return [tag if tag in shown else OTHER for tag in tags]


def vectors_of(answers: pa.Table) -> Vectors:
    """The vectors of rows that are not null, whatever they are stored as."""
    column = answers[0].combine_chunks()
    counts = np.ones(len(column), np.int64)
    scale = answers["scale"].combine_chunks() if "scale" in answers.column_names else None
    if is_list(column.type.value_type):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        counts = np.asarray(lengths, np.int64)
        column, scale = column.flatten(), None if scale is None else scale.flatten()
    flat = column.flatten()
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    matrix = values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)
    if flat.type == pa.uint8():  # a bit of each number's sign
        return Vectors(np.asarray(np.unpackbits(matrix, axis=1) * 2.0 - 1, np.float64), counts)
    matrix = matrix.astype(np.float64)
    if scale is not None:
        matrix = matrix * np.asarray(scale.to_numpy(zero_copy_only=False))[:, None]
    return Vectors(matrix, counts)
