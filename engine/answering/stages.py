"""The stages between reading and writing, bound to a bundle and one set of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine import tasks
from engine.bundle import batching
from engine.core.types import Answers, Arrays, Batch, Encoded, Ints, Output, Ragged, Rows
from engine.errors import OutOfMemory
from engine.generation import max_slots
from engine.runtime.protocol import Backend

# Rows that pass through each slot in one batch: enough for the last ones, which leave slots free,
# to be few among them.
_TURNS = 16
# Padded tokens of a batch on a GPU, the default: on an H200 MiniLM is a quarter
# faster with them than with half as many, and no model tried gains from more.
GPU_TOKENS = 32768
# Rows of such a batch at most: as many of the shortest as fill it.
GPU_ROWS = 4096


@dataclass(frozen=True)
class Stages:
    """The stages between reading and writing. Every method may be called from any thread."""

    backend: Backend
    task: tasks.Task
    context: tasks.Context
    budget: int
    max_length: int
    workers: int = 1
    dedupe: bool = True

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the result columns."""
        return self.task.schema(self.context.model_config, self.context.options)

    def prepare(self, rows: Rows) -> Rows:
        return self.task.prepare(rows, self.context)

    def encode(self, rows: Rows) -> Encoded:
        return self.task.encode_window(rows, self.context, dedupe=self.dedupe)

    def cut(self, window: Encoded) -> Iterator[Batch]:
        pad, decoder = self.context.model_config.pad_id, self.context.model_config.decoder
        if decoder:
            most = _TURNS * max_slots(decoder, self.backend.device)
            return batching.deal(
                window, workers=self.workers, most=most, limit=self.max_length, pad_id=pad
            )
        rows = GPU_ROWS if self.backend.device.is_gpu else batching.MAX_ROWS
        return batching.cut(
            window, budget=self.budget, limit=self.max_length, pad_id=pad, max_rows=rows
        )

    @property
    def by_row(self) -> bool:
        """Whether a row's results are the same in every batch, to the last bit: the tokens of a
        decoder are; scores, and what an encoder gives, may differ there."""
        options = self.context.options
        scored = (getattr(options, f"return_{name}", False) for name in ("scores", "logprobs"))
        return self.context.model_config.decoder is not None and not any(scored)

    def infer(self, batch: Batch, finished: tasks.Finished | None = None) -> Output:
        """A batch's results; `finished` is called as `Context.finished` says."""
        if not len(batch.index):
            return Output(batch, {})
        return Output(batch, self._infer(batch.feeds, batch.numbers, batch.seeds, finished))

    def _infer(
        self,
        feeds: Mapping[str, Ints],
        numbers: Ints,
        seeds: NDArray[np.uint64] | None,
        finished: tasks.Finished | None,
    ) -> Arrays:
        """A batch's results; it is halved, again and again, where memory is full."""
        try:
            context = replace(self.context, numbers=numbers, seeds=seeds, finished=finished)
            return self.task.infer(self.backend, feeds, context)
        except OutOfMemory:
            if len(numbers) < 2:
                raise
        self.context.spare.clear()
        self.context.count(halved=1)
        half = len(numbers) // 2
        parts = (slice(None, half), slice(half, None))
        return batching.joined(
            [
                self._infer(
                    {name: array[part] for name, array in feeds.items()},
                    numbers[part],
                    None if seeds is None else seeds[part],
                    finished and _from(part.start or 0, finished),
                )
                for part in parts
            ]
        )

    def finish(self, outputs: Sequence[Output]) -> Answers:
        """All outputs of one window to its result columns, in input order."""
        window = outputs[0].batch.window
        arrays = batching.gather(outputs)
        columns = (
            self.task.postprocess(window, arrays, self.context)
            if len(window.rows)
            else [pa.array([], field.type) for field in self.schema]
        )
        tokens = arrays.get("tokens")
        return Answers(
            window.rows,
            pa.RecordBatch.from_arrays(columns, schema=self.schema),
            tokens=len(window.ids.values),
            truncated=int(window.truncated.sum()),
            output_tokens=len(tokens.values) if isinstance(tokens, Ragged) else 0,
        )


def _from(start: int, finished: tasks.Finished) -> tasks.Finished:
    """A `Context.finished` for the rows of a batch from `start` on."""
    return lambda rows, arrays: finished(rows + start, arrays)
