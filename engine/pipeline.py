"""A bundle opened on a device, and its stages bound to one set of options.

`Bundle` is the public `engine.Bundle`; `Stages` are what the runner connects: encode, cut, infer,
finish. Neither knows input files, threads or output folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine import tasks
from engine.bundle import batching, graph_checks, trial
from engine.bundle import format as bundle_format
from engine.bundle.tokenizer import Tokenizer
from engine.core.activity import without_event
from engine.core.device import Device
from engine.core.hardware import cores
from engine.core.keywords import TaskOptions
from engine.core.settings import check_choice
from engine.core.types import Answers, Arrays, Batch, Encoded, Ints, Output, Ragged, Rows
from engine.errors import (
    BundleError,
    DeviceError,
    InputError,
    OutOfMemory,
    SettingsError,
    Stopped,
)
from engine.generation import BufferPool, Count, max_slots, uncounted
from engine.runtime.backend import OrtBackend
from engine.runtime.device import resolve
from engine.runtime.protocol import Backend
from engine.tasks import chats
from engine.tasks.in_memory_inputs import to_columns

# Rows that pass through each slot in one batch: enough for the last ones, which leave slots free,
# to be few among them.
_TURNS = 16
# Padded tokens of a batch on a GPU, the default: on an H200 MiniLM is a quarter
# faster with them than with half as many, and no model tried gains from more.
GPU_TOKENS = 32768
# Rows of such a batch at most: as many of the shortest as fill it.
GPU_ROWS = 4096


def never() -> bool:
    return False


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


class Bundle:
    """An exported model, loaded.

    engine.Bundle.load("models/minilm")(["a text", "another"])   # -> pyarrow.Table
    """

    def __init__(self, folder: bundle_format.BundleFolder, backend: Backend) -> None:
        self.folder = folder
        self.backend = backend
        self.task = tasks.of_bundle(folder)
        self.model_config = folder.description.model_config
        self._tokenizer = cache(self._open_tokenizer)
        self._chat_template = cache(partial(chats.template, self.model_config))
        # Decoding's buffers are reused by the next call: fresh memory costs about 1 ms a MiB.
        self._spare: list[BufferPool] = []

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "auto",
        threads: int = 0,
        check: bool = True,
        gpu_memory: int = 0,
    ) -> Bundle:
        """Open a bundle.

        Args:
            path: The folder that `engine export` wrote.
            device: auto, cpu, cuda or cuda:N.
            threads: Threads for one batch; 0 takes all cores.
            check: Compare every file with its recorded hash first, and try what was not opened
                here before in a process with limits.
            gpu_memory: Bytes of the GPU that each graph may take up; 0 for no limit.

        Raises:
            BundleError: Not a bundle, its bytes have changed, or it cannot be opened within limits.
            DeviceError: The device asked for is not what would run.
        """
        folder = bundle_format.load(path)
        with folder.unchanged():
            if check:
                folder.check()
                trial.check(folder)
            chosen = resolve(device)
            _check_device(folder, chosen)
            backend = OrtBackend(
                folder.path,
                folder.graphs_for(chosen),
                device=chosen,
                threads=threads or cores(),
                gpu_memory=gpu_memory,
            )
        _check_graphs(folder, backend)
        return cls(folder, backend)

    def stages(
        self,
        options: Mapping[str, Any],
        *,
        batch_tokens: int = 0,
        max_length: int = 0,
        truncation_side: str = "",
        workers: int = 1,
        dedupe: bool = True,
        stopped: Callable[[], bool] = never,
        count: Count = uncounted,
    ) -> Stages:
        """The stages, bound to task options and sizes (0: the task's and the model's own).

        `truncation_side` is left or right, "" for the bundle's or the task's own;
        `workers` is how many batches will be computed at the same time; `dedupe` computes equal
        sequences of a window once, unless answers are drawn by chance; `count` is told by decoding
        of its places and how many of them had a row.

        Raises:
            SettingsError: An option or a size does not fit this model.
        """
        length = max_length or self.model_config.max_length
        self._check_length(length)
        check_choice("truncation_side", truncation_side, ("", "left", "right"))
        side = truncation_side or self.model_config.truncation_side or self.task.truncation_side
        tokenizer = self._tokenizer(length, side)
        settled = tasks.resolve_options(self.task, self.model_config, options)
        on_gpu = self.backend.device.is_gpu
        budget = batch_tokens or (GPU_TOKENS if on_gpu else self.task.batch_tokens)
        backend = self.backend
        type_ids = "model" in backend.roles and "token_type_ids" in backend.graph("model").inputs
        return Stages(
            self.backend,
            self.task,
            tasks.Context(
                self.model_config,
                settled,
                tokenizer,
                type_ids,
                stopped,
                budget,
                count,
                self._spare,
                chat_template=(
                    self._chat_template(chats.of(settled)) if self.task.chats(settled) else None
                ),
            ),
            budget,
            length,
            workers,
            dedupe,
        )

    def __call__(
        self,
        texts: Sequence[Any],
        *,
        max_length: int = 0,
        truncation_side: str = "",
        **options: Unpack[TaskOptions],
    ) -> pa.Table:
        """Answer a list of texts in memory.

        Args:
            texts: What the task's input columns hold, item by item: a string; a list of words for
                token-classification; a tuple or a dict of the columns where there are several,
                such as (question, context); with chat=True a list of messages, too.
            max_length: Tokens a text may have before it is cut; 0 takes the model's.
            truncation_side: Where it is cut: left or right; "" where the checkpoint's tokenizer
                cuts, and a prompt for text-generation at its left.
            options: The task's own, such as max_new_tokens=48 or top_k=3.

        Returns:
            A table of the result columns, one row for each text, in order.

        Raises:
            InputError: Something in the list is not text.
            SettingsError: An option is unknown or out of range.
            Stopped: `stop` is an event, and was set.
        """
        stop, rest = without_event(options)
        stages = self.stages(
            rest,
            max_length=max_length,
            truncation_side=truncation_side,
            stopped=stop.is_set if stop else never,
        )
        settled = stages.context.options
        columns = to_columns(texts, self.task, chats=self.task.chats(settled))
        self.task.check(self.model_config, settled, len(columns))
        size = self.task.window(settled)
        starts = range(0, len(columns[0]), size)
        windows = (_window(columns, start, size) for start in starts)
        answers = [answer(stages, rows).columns for rows in windows]
        return pa.Table.from_batches(answers, schema=stages.schema)

    def _open_tokenizer(self, max_length: int, side: str) -> Tokenizer:
        file = self.folder.path / bundle_format.TOKENIZER
        return Tokenizer(file, max_length, side, self.folder.digest(bundle_format.TOKENIZER))

    def _check_length(self, length: int) -> None:
        limit = self.model_config.position_limit
        if length < 4 or (limit and length > limit):
            raise SettingsError(
                f"max_length is {length}", f"4 to {limit or 'any number of'} tokens for this model"
            )


def _window(columns: Sequence[pa.Array], start: int, size: int) -> Rows:
    """Rows in memory from `start` on."""
    texts = tuple(column.slice(start, size) for column in columns)
    return Rows(None, texts, numbers=np.arange(start, start + len(texts[0])))


def answer(stages: Stages, rows: Rows) -> Answers:
    """One window through all stages, in this thread."""
    if stages.context.stopped():
        raise Stopped("stopped")
    rows = stages.prepare(rows)
    if rows.rejects.codes:
        raise InputError(
            f"item {rows.rejects.rows[0]} of the list: {rows.rejects.messages[0]}",
            "mend the item, or leave it out",
        )
    return stages.finish([stages.infer(batch) for batch in stages.cut(stages.encode(rows))])


def _check_graphs(folder: bundle_format.BundleFolder, backend: OrtBackend) -> None:
    """Refuse graphs that are not as the description says."""
    model = backend.graph("model") if "model" in backend.roles else None
    answers = None if model is None else {name: model.shapes[name] for name in model.outputs}
    for problem in graph_checks.task_problems(folder.description, answers):
        file = folder.path / bundle_format.DESCRIPTION
        raise BundleError(f"{file}: {problem}", bundle_format.AGAIN)
    for record in folder.graphs_for(backend.device):
        graph = backend.graph(record.role)
        inputs = {name: graph.shapes[name] for name in graph.inputs}
        outputs = {name: graph.shapes[name] for name in graph.outputs}
        for problem in graph_checks.problems(folder.description, record.role, inputs, outputs):
            raise BundleError(f"{folder.path / record.file}: {problem}", bundle_format.AGAIN)


def _check_device(folder: bundle_format.BundleFolder, device: Device) -> None:
    decoder = folder.description.model_config.decoder
    if decoder and decoder.long_from and device.is_gpu:
        raise DeviceError(
            f"{folder.path}: {device} was asked for, and this model rotates rows of more than "
            f"{decoder.long_from} positions by other factors (longrope), which is done on the CPU "
            "only",
            "--device cpu runs this bundle",
        )
