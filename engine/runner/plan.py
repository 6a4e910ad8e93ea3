"""What a run is going to do, settled before its folder is taken and anything is computed.

All that can be refused is refused here: settings, options of the task, inputs, their columns and
types, the device. Nothing is written, so that a refused run leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine import data, tasks
from engine.answering.table_columns import named_results
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.core.activity import proceeding, working
from engine.core.column_types import types_of
from engine.core.config import RunConfig
from engine.core.device import ALL, AUTO, Device
from engine.core.hardware import cores
from engine.core.settings import check_names, checked, declared, values_of
from engine.core.share import Share, share_of
from engine.core.types import Columns, CorpusFile, Split
from engine.errors import DeviceError, SettingsError
from engine.pipeline import MAX_WORKERS, Bundle
from engine.runner import fingerprint
from engine.runner.manifest import Manifest
from engine.runner.records import RunRecord
from engine.runner.unused_settings import RunFacts, unused_notes
from engine.runtime.device import devices, gpu_name

# Processes that tokenize for a GPU, one for every two cores: each gives 1 to 2 million tokens a
# second then, and can hand over several times that.
GPU_TOKENIZERS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it begins.

    Attributes:
        model: The bundle's folder, or the bundle where it is loaded already.
        folder: The bundle's description.
        config: Settings of the run, the tuned and the kept ones among them.
        devices: What will compute, one worker for each.
        record: What makes it the same run as another.
        files: The input files, and `file_states` what they were when they were found,
            by name.
        unread: How many files the inputs have besides, by ending.
        columns: What is read of every file.
        results: Names and types of the result columns.
        splits: In input order; `parts` are the names of their part files.
        share: Which of them are computed, or None for all; `own` are those.
        passes: What passes over large files found, for the next start.
        notes: What the person should know of how it was settled.
    """

    model: Bundle | Path | str
    folder: bundle_format.BundleFolder
    config: RunConfig
    devices: tuple[Device, ...]
    record: RunRecord
    files: tuple[CorpusFile, ...]
    file_states: Mapping[str, tuple[int, int]]
    unread: Mapping[str, int]
    columns: Columns
    results: pa.Schema
    splits: tuple[Split, ...]
    parts: PartNames
    own: tuple[Split, ...]
    share: Share | None = None
    passes: str = ""
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """The device in words; `cuda:all` for several."""
        return str(self.devices[0]) if len(self.devices) == 1 else ALL


class PartNames(Mapping[Split, str]):
    """Names of the part files of splits, made when they are asked for: a million of them take as
    much memory as all else that is known of their splits.

    Args:
        splits: In input order.
        format: Of the parts.
    """

    def __init__(self, splits: Sequence[Split], format: str) -> None:
        self._splits, self._format = splits, format

    def __getitem__(self, split: Split) -> str:
        return data.part_name(split.ordinal, split.name, self._format)

    def __iter__(self) -> Iterator[Split]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)


@dataclass(frozen=True)
class Early:
    """What is known of a run while its checkpoint is not exported; as in `Plan`."""

    config: RunConfig
    files: tuple[CorpusFile, ...]
    unread: Mapping[str, int]
    columns: Columns


def make_plan(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    manifest: Manifest,
    settings: Mapping[str, object],
) -> Plan:
    """Settle a run; `coordinator.run` says what the arguments are and what is raised."""
    with working("planning"):
        return _make_plan(model, inputs, manifest, values_of(settings, RunConfig))


def _make_plan(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    manifest: Manifest,
    settings: Mapping[str, object],
) -> Plan:
    data.check_local(manifest.out)
    manifest.check_free()
    folder = model.folder if isinstance(model, Bundle) else bundle_format.load(model)
    config = resolve_config(folder, settings)
    chosen = _devices(model, config)
    config, notes = _capped(*_with_sizes(model, folder, config, chosen[0], manifest))
    files, unread = _files(inputs, manifest.out, config)
    file_states = {file.name: fingerprint.file_state(file) for file in proceeding(files)}
    task, model_config = tasks.of_bundle(folder), folder.description.model_config
    options = tasks.resolve_options(task, model_config, config.options)
    inputs_of_task = tasks.input_columns(task, config.text, options)
    cache = data.SchemaCache(manifest.folder / data.PASSES)
    columns = data.settle(files, inputs_of_task, config.keep, types_of(config.schema), cache)
    columns = dataclasses.replace(
        columns, max_row_bytes=config.max_row_bytes, reject_text=config.reject_text
    )
    results = named_results(columns.kept, task.schema(model_config, options), config.result_prefix)
    splits = tuple(data.split_files(files, config.split_size, file_states))
    share = share_of(config.share)
    facts = RunFacts(
        config,
        task,
        options,
        kinds=frozenset(file.kind for file in files),
        stored=any(data.is_stored(file) for file in files),
        by_ending=bool(config.input_format)
        and all(data.kind_of(file.path) == file.kind for file in files),
        typed=bool(columns.given),
        on_gpu=chosen[0].is_gpu,
        loaded=isinstance(model, Bundle),
    )
    return Plan(
        model=model,
        folder=folder,
        config=config,
        devices=chosen,
        record=RunRecord(
            **fingerprint.run_record(folder, config, chosen[0].kind),
            inputs=[dataclasses.asdict(column) for column in inputs_of_task],
        ),
        files=tuple(files),
        file_states=file_states,
        unread=unread,
        columns=columns,
        results=results,
        splits=splits,
        parts=PartNames(splits, config.part_format),
        own=share.of(splits) if share else splits,
        share=share,
        passes=cache.text(),
        notes=(*notes, *_long_numbers(columns, files), *unused_notes(facts, settings)),
    )


def check_early(
    task_name: str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    settings: Mapping[str, object],
) -> Early:
    """Refuse what can be refused of a run while its checkpoint is not exported yet: settings, names
    and bounds of the task's options, inputs, their columns and types, and the output folder.

    Raises:
        As `coordinator.run`.
    """
    task = tasks.find(task_name)
    options = dict(declared(task.options))
    names = {f.name for f in dataclasses.fields(RunConfig)}
    check_names("setting", settings, names | set(options))
    config = RunConfig.of({n: v for n, v in settings.items() if n in names})
    named = {n: v for n, v in settings.items() if n not in names} | dict(config.options)
    check_names(f"option of {task.name}", named, options)
    given = {name: checked(name, value, *options[name]) for name, value in named.items()}
    columns = tasks.input_columns(task, config.text)
    if given.get("chat"):
        columns = (dataclasses.replace(columns[0], holds="chat"), *columns[1:])
    cache = data.SchemaCache(Manifest(Path(out)).folder / data.PASSES)
    files, unread = _files(inputs, Path(out), config)
    settled = data.settle(files, columns, config.keep, types_of(config.schema), cache)
    return Early(config, tuple(files), unread, settled)


def check_settings(
    inputs: Sequence[str | Path] | str | Path, out: Path | str, settings: Mapping[str, object]
) -> None:
    """Refuse what can be refused of a run whatever its task is: settings, the device, inputs that
    do not exist and the output folder.

    Raises:
        As `coordinator.run`.
    """
    names = {f.name for f in dataclasses.fields(RunConfig)}
    config = RunConfig.of({n: v for n, v in settings.items() if n in names})
    data.check_local(out)
    Manifest(Path(out)).check_free()
    devices(config.device)
    _files(inputs, Path(out), config)


def _files(
    inputs: Sequence[str | Path] | str | Path, out: Path, config: RunConfig
) -> tuple[list[CorpusFile], Mapping[str, int]]:
    """The files of the inputs that do not lie in the output folder, and those that are not read."""
    named = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    by_content = config.input_identity == "content"
    with working("listing", ", ".join(map(data.shown, named[:3]))):
        discovery = data.discover(named, out, config.input_format, by_content=by_content)
    return fingerprint.inputs_outside(discovery.files, out), discovery.unread


def _long_numbers(columns: Columns, files: Sequence[CorpusFile]) -> list[str]:
    names = data.long_numbers(columns, files)
    listed = ", ".join(names[:8])
    return [f"whole numbers beyond 64 bits are kept as decimals: {listed}"] if names else []


def resolve_config(folder: bundle_format.BundleFolder, settings: Mapping[str, object]) -> RunConfig:
    """Validated settings, the task's options set apart, before anything is opened.

    Raises:
        SettingsError: A name is unknown or a value out of range.
    """
    task, model_config = tasks.of_bundle(folder), folder.description.model_config
    names = set(task.defaults(model_config))
    check_names("setting", settings, names | {f.name for f in dataclasses.fields(RunConfig)})
    config = RunConfig.of({n: v for n, v in settings.items() if n not in names})
    options = {n: v for n, v in settings.items() if n in names} | dict(config.options)
    config = dataclasses.replace(config, options=options)
    columns = tasks.input_columns(task, config.text)
    task.check(model_config, tasks.resolve_options(task, model_config, options), len(columns))
    return dataclasses.replace(config, text=tuple(column.name for column in columns))


def _with_sizes(
    model: Bundle | Path | str,
    folder: bundle_format.BundleFolder,
    config: RunConfig,
    device: Device,
    manifest: Manifest,
) -> tuple[RunConfig, tuple[str, ...]]:
    """The settings with those that `engine tune` measured on this machine, but for a size of
    batches that an earlier start of the same run has recorded; and a note where the two differ.

    Another size of batches moves the last bits of float32 answers, so that parts of one folder have
    one size, whatever is measured between two starts and on whichever machine they are.
    """
    given = config.batch_tokens
    if not isinstance(model, Bundle):
        config = tuned.applied(folder.path, config, gpu_name(device))
    elif not (given or config.workers or config.threads):
        config = dataclasses.replace(config, batch_tokens=model.batch_tokens)
    earlier = manifest.read_run()
    if given or earlier is None:
        return config, ()
    kept = earlier.get("settings", {}).get("batch_tokens")
    if not isinstance(kept, int) or kept == config.batch_tokens:
        return config, ()
    alike = dataclasses.replace(config, batch_tokens=kept)
    if fingerprint.run_record(folder, alike, device.kind)["fingerprint"] != earlier["fingerprint"]:
        return config, ()
    note = (
        f"batches have {kept or 'the default number of'} tokens, as in this folder's first start, "
        f"not {config.batch_tokens or 'the default number'} as measured since: another size moves "
        "the last bits of answers"
    )
    return alike, (note,)


def _capped(config: RunConfig, notes: tuple[str, ...]) -> tuple[RunConfig, tuple[str, ...]]:
    """The settings with no more threads than there are cores, and a note where there were."""
    if config.threads <= (most := cores()):
        return config, notes
    note = f"threads is {config.threads:,}, and {most} are used, one for each core"
    return dataclasses.replace(config, threads=most), (*notes, note)


def _devices(model: Bundle | Path | str, config: RunConfig) -> tuple[Device, ...]:
    """The devices that will compute: for a loaded bundle the one that it is on."""
    wanted = config.device
    if wanted == ALL and (isinstance(model, Bundle) or config.limit):
        what = "a loaded bundle" if isinstance(model, Bundle) else f"limit {config.limit}"
        raise SettingsError(
            f"device is {ALL}, which cannot be combined with {what}",
            "give the bundle's folder and no limit: the GPUs share the splits, a process each",
        )
    if not isinstance(model, Bundle):
        return devices(wanted)
    device = model.backend.device
    if wanted not in (AUTO, device.kind, str(device)):
        raise DeviceError(
            f"{wanted} was asked for, and the bundle is loaded on {device}",
            "load it with the device you want, or give the bundle's folder",
        )
    return (device,)


def sized(
    config: RunConfig, device: Device, count: int, *, decoder: bool, loaded: Bundle | None
) -> RunConfig:
    """Settings of one of `count` workers, with every size that was 0 filled in; a bundle that is
    loaded already has its own number of workers."""
    workers, tokenizers = config.workers, config.tokenizers
    if device.is_gpu:
        # One batch is prepared while another is computed; a decoder refills its slots instead.
        workers = workers or (1 if decoder else 2)
        tokenizers = tokenizers or min(GPU_TOKENIZERS, max(1, cores() // (2 * count)))
    else:
        workers = workers or (loaded.workers if loaded else min(MAX_WORKERS, cores()))
    threads = config.threads or max(1, cores() // (count * workers))
    return dataclasses.replace(config, workers=workers, tokenizers=tokenizers, threads=threads)
