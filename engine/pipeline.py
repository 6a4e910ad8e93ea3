"""A bundle opened on a device: the public `engine.Bundle`.

It answers what is in memory, and binds the stages that a run connects. It knows no input files and
no output folders.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack, cast

import numpy as np
import pyarrow as pa

from engine import data, tasks
from engine.answering.answered import Answered
from engine.answering.in_flight import answer_windows
from engine.answering.stages import GPU_TOKENS, Stages
from engine.answering.table_columns import divided
from engine.answering.tables import answer_tables
from engine.bundle import format as bundle_format
from engine.bundle import graph_checks, trial, tuned
from engine.bundle.tokenizer import Tokenizer
from engine.core.activity import without_event
from engine.core.config import RunConfig
from engine.core.device import Device
from engine.core.hardware import cores
from engine.core.keywords import TableArguments, TaskOptions
from engine.core.notebook import facts_table
from engine.core.settings import Setting, check_choice, checked, declared
from engine.core.types import Rows
from engine.errors import BundleError, DeviceError, InputError, SettingsError
from engine.generation import BufferPool, Count, uncounted
from engine.runtime.backend import OrtBackend
from engine.runtime.device import gpu_name, resolve
from engine.runtime.protocol import Backend
from engine.tasks import chats, decoding
from engine.tasks.in_memory_inputs import to_columns

MAX_WORKERS = 4
_BEAMS = Setting(help="beams that a decoder is loaded for", least=0, most=decoding.MOST_BEAMS)
_LABELS_SHOWN = 8


def never() -> bool:
    return False


class Bundle:
    """An exported model, loaded.

    engine.Bundle.load("models/minilm")(["a text", "another"])   # -> pyarrow.Table
    """

    def __init__(
        self,
        folder: bundle_format.BundleFolder,
        backend: Backend,
        loading: Mapping[str, Any] = MappingProxyType({}),
        sizes: RunConfig | None = None,
    ) -> None:
        self.folder = folder
        self.backend = backend
        self.task = tasks.of_bundle(folder)
        self.model_config = folder.description.model_config
        self._tokenizer = cache(self._open_tokenizer)
        self._chat_template = cache(partial(chats.template, self.model_config))
        # Decoding's buffers are reused by the next call: fresh memory costs about 1 ms a MiB.
        self._spare: list[BufferPool] = []
        self._path, self._loading = folder.path.absolute(), dict(loading)
        self._sizes = sizes or RunConfig()

    def __reduce__(self) -> tuple[Any, ...]:
        """As its path, its digest and how it was loaded: a copy, or what is unpickled in another
        process, is loaded there."""
        return _load_again, (str(self._path), self.folder.fingerprint, self._loading)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "auto",
        threads: int = 0,
        workers: int = 0,
        check: bool = True,
        gpu_memory: int = 0,
        num_beams: int = 0,
    ) -> Bundle:
        """Open a bundle; without threads and workers with what `engine tune` measured here.

        Args:
            path: The folder that `engine export` wrote.
            device: auto, cpu, cuda or cuda:N.
            threads: CPU threads; 0 takes all cores, and more than there are is as many, with a
                warning.
            workers: Batches that `answer`, `stream` and a call compute at the same time, each with
                its share of the threads; 0 for as many as a run has: one for each core, at most 4,
                or with `threads` given as many as there are cores for, each with all of these.
                With 1 a single batch is computed sooner, and many take longer.
            check: Compare every file with its recorded hash first, and try what was not opened
                here before in a process with limits.
            gpu_memory: Bytes of the GPU that each graph may take up; 0 for no limit.
            num_beams: Beams that a decoder is loaded for at once; 0 for the bundle's own.

        Raises:
            BundleError: Not a bundle, its bytes have changed, or it cannot be opened within limits.
            DeviceError: The device asked for is not what would run.
        """
        settings = _checked(device=device, threads=threads, workers=workers, gpu_memory=gpu_memory)
        settings["threads"] = _capped(settings["threads"])
        num_beams = cast(int, checked("num_beams", num_beams, "int", _BEAMS))
        folder = bundle_format.load(path)
        unchanged = partial(folder.unchanged, folder.states())
        with unchanged():
            if check:
                folder.check()
                trial.check(folder)
            chosen = resolve(settings["device"])
            _check_device(folder, chosen)
            sizes = _sizes(folder, settings, chosen)
            backend = OrtBackend(
                folder.path,
                folder.graphs_for(chosen),
                device=chosen,
                threads=sizes.threads,
                gpu_memory=settings["gpu_memory"],
                beams=num_beams or _own_beams(folder),
                unchanged=unchanged,
            )
        _check_graphs(folder, backend)
        return cls(folder, backend, {**settings, "check": check, "num_beams": num_beams}, sizes)

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
        config = RunConfig.of({"max_length": max_length, "truncation_side": truncation_side})
        stages = self.stages(
            rest,
            batch_tokens=self.batch_tokens,
            max_length=config.max_length,
            truncation_side=config.truncation_side,
            workers=self.workers,
            stopped=stop.is_set if stop else never,
        )
        settled = stages.context.options
        columns = to_columns(texts, self.task, chats=self.task.chats(settled))
        self.task.check(self.model_config, settled, len(columns))
        windows = _windows(columns, self.task.window(settled), stages)
        answers = [w.columns for w in answer_windows(stages, windows, one_table=True)]
        return pa.Table.from_batches(answers, schema=stages.schema)

    def answer(self, table: object, **settings: Unpack[TableArguments]) -> Answered:
        """Answer a table in memory: Arrow in, Arrow out, with what `engine.run` makes of its rows.

        Args:
            table: A pyarrow.Table, RecordBatch, Array or ChunkedArray, or an object with the Arrow
                PyCapsule interface, such as a frame of Polars or pandas. An array is the one input
                column.
            settings: As of `engine.run`, and the task's own options by name: `text`, the input
                columns in the order of the task; `keep`, those to hand back beside the results,
                "all" for every one, and `_row` for a row's place in the table; `result_prefix`;
                `on_error`, here "reject" unless it is "fail"; `batch_tokens`, `dedupe`,
                `max_length` and `truncation_side`. `stop` may also be a `threading.Event`: set by
                whichever thread, it ends the call.

        Returns:
            The answered rows in order, and the bad ones with their reasons.

        Raises:
            SettingsError: A setting is unknown or out of range.
            ColumnError: A column is missing, or not what the task takes.
            InputError: `table` has no Arrow columns, or a row is bad and `on_error` is "fail".
            Stopped: `stop` is an event, and was set.
        """
        tables = self._answered([("the table", table)], settings, one_table=True)
        with closing(tables):
            return next(tables)

    def stream(
        self, batches: Iterable[object], **settings: Unpack[TableArguments]
    ) -> Generator[Answered, None, None]:
        """Answer tables one after the other, while the next is read.

        `batches` is asked by the thread that asks for answers, and for at most one table beyond
        the one whose answers it waits for or holds. It may be closed at any time.

        Args:
            batches: Whatever iterates over tables as for `answer`; or what has an Arrow stream
                itself, such as a pyarrow.RecordBatchReader, whose batches are taken. The first
                table settles the types of the kept columns.
            settings: As for `answer`. A row is numbered within its table, and what is sampled for
                it depends on its place among all rows.

        Returns:
            A generator of what `answer` returns for each table, in order.

        Raises:
            As `answer`, at the table that is at fault and once those before it are answered; and
            what `batches` raises, as it is.
        """
        tables = enumerate(data.tables_of(batches))
        named = ((f"table {number} of the stream", table) for number, table in tables)
        return self._answered(named, settings)

    def _answered(
        self,
        tables: Iterable[tuple[str, object]],
        settings: TableArguments,
        *,
        one_table: bool = False,
    ) -> Generator[Answered, None, None]:
        stop, _ = without_event(settings)
        config, options = divided(settings, self.task.defaults(self.model_config))
        stages = self.stages(
            options,
            batch_tokens=config.batch_tokens or self.batch_tokens,
            max_length=config.max_length,
            truncation_side=config.truncation_side,
            workers=self.workers,
            dedupe=config.dedupe,
            stopped=stop.is_set if stop else never,
        )
        return answer_tables(stages, tables, config, one_table=one_table)

    def _repr_html_(self) -> str:
        """What a notebook shows: the model, its task and what it is computed on."""
        of = self.folder.description
        labels, more = self.model_config.labels, len(self.model_config.labels) - _LABELS_SHOWN
        named = ", ".join(labels[:_LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        facts = (
            ("model", " ".join(map(str, filter(None, map(of.source.get, ("model", "revision")))))),
            ("architecture", of.architecture),
            ("recipe", of.recipe),
            ("labels", named),
            ("longest text", f"{self.model_config.max_length:,} tokens"),
            ("device", str(self.backend.device)),
            ("batches at once", str(self.workers)),
        )
        return facts_table(f"{self.task.name}: {self._path}", facts)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of a batch, where a call or a run sets none of the sizes: as `engine tune`
        measured; 0 for the task's own."""
        return self._sizes.batch_tokens

    @property
    def workers(self) -> int:
        """Batches that are computed at the same time: on a CPU as many as have a core for each of
        their threads; on a GPU one is prepared while another is computed, and a decoder refills
        its slots instead."""
        if workers := self._sizes.workers or int(self._loading.get("workers", 0)):
            return workers
        if self.backend.device.is_gpu:
            return 1 if self.model_config.decoder else 2
        # One where another has made the backend, whose threads are not known.
        threads = self._loading.get("threads", cores()) or 1
        return max(1, min(MAX_WORKERS, cores() // threads))

    def _open_tokenizer(self, max_length: int, side: str) -> Tokenizer:
        file = self.folder.path / bundle_format.TOKENIZER
        return Tokenizer(file, max_length, side, self.folder.digest(bundle_format.TOKENIZER))

    def _check_length(self, length: int) -> None:
        limit = self.model_config.position_limit
        if length < 4 or (limit and length > limit):
            raise SettingsError(
                f"max_length is {length}", f"4 to {limit or 'any number of'} tokens for this model"
            )


def _sizes(
    folder: bundle_format.BundleFolder, settings: Mapping[str, Any], device: Device
) -> RunConfig:
    """`batch_tokens` and `workers` as given or tuned, and the CPU `threads` of each batch."""
    given = RunConfig(threads=settings["threads"], workers=settings["workers"])
    sizes = tuned.applied(folder.path, given, gpu_name(device))
    each = 0 if sizes is given else sizes.threads
    return replace(sizes, threads=each or _batch_threads(given.threads, sizes.workers))


def _batch_threads(threads: int, workers: int) -> int:
    """CPU threads of each batch, as `Bundle.load` divides them."""
    if not workers:
        return threads or max(1, cores() // min(MAX_WORKERS, cores()))
    return max(1, (threads or cores()) // workers)


def _checked(**arguments: object) -> dict[str, Any]:
    """Values of settings of a run."""
    known = declared(RunConfig)
    return {name: checked(name, value, *known[name]) for name, value in arguments.items()}


def _capped(threads: int) -> int:
    """No more threads than there are cores, and a warning where there were."""
    if threads > (most := cores()):
        note = f"threads is {threads:,}, and {most} are used, one for each core"
        warnings.warn(note, stacklevel=3)
    return min(threads, most)


def _load_again(path: str, fingerprint: str, loading: Mapping[str, Any]) -> Bundle:
    """The bundle that was pickled.

    Raises:
        BundleError: Another one lies there, or none.
    """
    if not Path(path).exists():
        raise BundleError(
            f"{path}: no such bundle here",
            "a pickled bundle is its path: put the same folder there on every machine",
        )
    if bundle_format.load(path).fingerprint != fingerprint:
        raise BundleError(
            f"{path}: is another bundle than the one that was pickled",
            "put the same folder there on every machine, or load the bundle again and pickle that",
        )
    return Bundle.load(path, **loading)


def _windows(columns: Sequence[pa.Array], size: int, stages: Stages) -> Iterator[Rows]:
    """Windows of rows in memory."""
    for start in range(0, len(columns[0]), size):
        texts = tuple(column.slice(start, size) for column in columns)
        numbers = np.arange(start, start + len(texts[0]))
        rows = Rows(None, texts, last=start + size >= len(columns[0]), numbers=numbers)
        yield _without_rejects(stages.prepare(rows))


def _without_rejects(rows: Rows) -> Rows:
    """Rows none of which is bad.

    Raises:
        InputError: One is.
    """
    if rows.rejects.codes:
        raise InputError(
            f"item {rows.rejects.rows[0]} of the list: {rows.rejects.messages[0]}",
            "mend the item, or leave it out",
        )
    return rows


def _own_beams(folder: bundle_format.BundleFolder) -> int:
    """Beams of a bundle's decoder unless others are asked for."""
    decoder = folder.description.model_config.decoder
    return decoder.search.num_beams if decoder else 1


def _check_graphs(folder: bundle_format.BundleFolder, backend: OrtBackend) -> None:
    """Refuse graphs that are not as the description says."""
    model = backend.loaded.get("model")
    answers = None if model is None else {name: model.shapes[name] for name in model.outputs}
    for problem in graph_checks.task_problems(folder.description, answers):
        file = folder.path / bundle_format.DESCRIPTION
        raise BundleError(f"{file}: {problem}", bundle_format.AGAIN)
    for record in folder.graphs_for(backend.device):
        graph = backend.loaded[record.role]
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
