"""The engine on a GPU against torch, transformers and CTranslate2: one command, no network.

    python benchmarks/gpu.py --save             everything; writes results/gpu-NAME.json
    python benchmarks/gpu.py --prepare          only makes checkpoints and bundles, on any machine
    python benchmarks/gpu.py --device cpu --quick      small shapes, to check that it works

Checkpoints are random and of real shapes (`models.py`), made from a seed and exported once into
--work; a machine that gets a filled --work needs neither Optimum nor transformers 4. First the
answers of fp16 on the GPU are compared with those of fp32 on the CPU. Then every figure is the
median of --rounds, in turns with the peers: torch in float16 with its fused attention, the better
of two batch sizes, sorted by length, with the tokens on the GPU before the clock starts;
transformers' generate() in float16; CTranslate2 in float16 if it is installed. Shares are of the
GPU's own bf16 matrix product, measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import models
import numpy as np
import pyarrow as pa
import texts
from machine import describe, save
from prepare import operations
from workloads import ANSWERS, MIXED, SENTENCES

import engine
from engine.answering.stages import GPU_TOKENS, Stages
from engine.bench.profile import TimedBackend
from engine.bundle import format as bundle_format
from engine.core.device import ALL, Device
from engine.core.types import Batch, Rows
from engine.generation import device_cache
from engine.pipeline import Bundle
from engine.runner import plan
from engine.runtime import cuda
from engine.runtime.device import devices, resolve
from engine.runtime.protocol import Backend

WORK = Path(__file__).with_name("work") / "gpu"
WORDS = 200_000
# In words of a token or more: with the two special tokens a row has 128, or is cut there.
LONG = texts.Lengths(126, 0, 126, 126)
LABELS = ("NEGATIVE", "POSITIVE")
# Seconds that a run end to end takes, about or more: real corpora take longer than a second, and
# the tokenizer pool needs a quarter of one to start.
LASTING = 20.0
# How many of the engine's batches torch gets joined into one. Eager torch may be host-bound on
# small batches, so it is compared at its best.
TORCH = {"torch": 1, "torch_larger": 4}
PARTS = ("parity", "encode", "decode", "memory", "several")


@dataclass(frozen=True)
class Shape:
    """A checkpoint: its task, and what makes it in a folder, (folder, quick) -> folder."""

    task: str
    make: Callable[[Path, bool], Path]


def _bert(head: str, sizes: dict[str, int], labels: Sequence[str]) -> Callable[[Path, bool], Path]:
    def make(folder: Path, quick: bool) -> Path:
        tokenizer = models.wordpiece(islice(texts.words([]), WORDS))
        small = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 192}
        return models.bert(folder, tokenizer, head, labels, small if quick else sizes)

    return make


def _t5(folder: Path, quick: bool) -> Path:
    tokenizer = models.unigram(islice(texts.words([]), WORDS))
    lengths = sorted(ANSWERS.draw(models.SENTINELS, 0))
    small = {"num_layers": 1, "num_decoder_layers": 1}
    return models.t5_small(folder, tokenizer, lengths, **(small if quick else {}))


SHAPES = {
    "bert-base": Shape("feature-extraction", _bert("Model", models.BERT_BASE, ())),
    "minilm": Shape("feature-extraction", _bert("Model", models.MINILM, ())),
    "classifier": Shape(
        "text-classification", _bert("ForSequenceClassification", models.MINILM, LABELS)
    ),
    "t5-small": Shape("translation", _t5),
}


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Attributes:
        work: Where checkpoints and bundles are kept.
        rounds: How often each call is timed.
        quick: Small shapes and few rows.
        most: Seconds after which a call is left out of further rounds.
    """

    work: Path
    device: str
    rounds: int
    quick: bool
    most: float = 60.0

    def folder(self, shape: str, recipe: str) -> Path:
        return self.work / shape / recipe

    def open(self, shape: str, recipe: str, device: str = "") -> Bundle:
        return Bundle.load(self.folder(shape, recipe), device=device or self.device, check=False)

    def rows(self, many: int) -> int:
        return 12 if self.quick else many


# --- checkpoints and bundles


def prepare(bench: Bench) -> None:
    """Make the checkpoints and bundles that do not exist yet."""
    for name, shape in SHAPES.items():
        checkpoint = bench.folder(name, "checkpoint")
        if not (checkpoint / "config.json").exists():
            print(f"making {name}", flush=True)
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            shape.make(checkpoint, bench.quick)
        for recipe in ("fp32", "fp16"):
            if not (bench.folder(name, recipe) / bundle_format.DESCRIPTION).exists():
                _export(bench, name, recipe)


def _export(bench: Bench, name: str, recipe: str) -> None:
    from engine.export import export, quantize

    print(f"exporting {name} {recipe}", flush=True)
    out = bench.folder(name, recipe)
    if recipe == "fp32":
        export(str(bench.folder(name, "checkpoint")), out, task=SHAPES[name].task)
    else:
        # `parity` compares the answers on the GPU, so a few rows are enough here.
        sample = out.with_name("sample.jsonl")
        sample.write_text("".join(f'{{"text": "{text}"}}\n' for text in corpus("mixed", 8)[0]))
        fp32 = bench.folder(name, "fp32")
        quantize(fp32, out, recipe=recipe, sample=sample, text=("text",), force=True)


def sources(count: int, seed: int = 1) -> tuple[list[str], list[int]]:
    """Texts for t5-small's shape, and the number of tokens in each answer."""
    lengths = sorted(ANSWERS.draw(models.SENTINELS, 0))
    plain = texts.cut(texts.words([]), SENTENCES.draw(count, seed))
    drawn = random.Random(2).choices(range(models.SENTINELS), k=count)
    rows = [f"<extra_id_{j}> {text}" for j, text in zip(drawn, plain, strict=True)]
    return rows, [lengths[j] for j in drawn]


def corpus(kind: str, count: int) -> tuple[list[str], int]:
    """Texts for an encoder, and the tokens at which one is cut."""
    lengths, max_length = (LONG, 128) if kind == "128" else (MIXED, 256)
    return texts.cut(texts.words([]), lengths.draw(count, 1)), max_length


# --- parity


def parity(bench: Bench) -> dict[str, Any]:
    """fp16 on the device against fp32 on the CPU, row by row."""
    count = bench.rows(200)
    rows, _ = sources(count)
    greedy = {"num_beams": 1, "max_new_tokens": 128}
    answers = _both(bench, "t5-small", rows, "translation_text", greedy)
    figures: dict[str, Any] = {"rows": count, "greedy_rows_equal": _equal(*answers)}
    rows, _ = corpus("mixed", count)
    for name in ("bert-base", "minilm"):
        fp16, fp32 = (np.array(v) for v in _both(bench, name, rows, "embedding", {}))
        cosines = (fp16 * fp32).sum(1) / np.linalg.norm(fp16, axis=1)
        cosines /= np.linalg.norm(fp32, axis=1)
        figures[f"{name}_cosine_mean"] = round(float(cosines.mean()), 6)
        figures[f"{name}_cosine_worst"] = round(float(cosines.min()), 6)
    figures["labels_equal"] = _equal(*_both(bench, "classifier", rows, "label", {}))
    return figures


def _both(
    bench: Bench, name: str, rows: list[str], column: str, options: dict[str, Any]
) -> tuple[list[Any], list[Any]]:
    fp16 = bench.open(name, "fp16")(rows, **options)[column].to_pylist()
    return fp16, bench.open(name, "fp32", "cpu")(rows, **options)[column].to_pylist()


def _equal(fp16: list[Any], fp32: list[Any]) -> float:
    """The share of equal answers."""
    same = sum(a == b for a, b in zip(fp16, fp32, strict=True))
    return round(float(same) / len(fp32), 4)


# --- encoding


def encode(bench: Bench, peak: float) -> list[dict[str, Any]]:
    return [
        _encode(bench, name, kind, peak)
        for name in ("bert-base", "minilm")
        for kind in ("128", "mixed")
    ]


def _encode(bench: Bench, name: str, kind: str, peak: float) -> dict[str, Any]:
    rows, max_length = corpus(kind, bench.rows(8192 if name == "bert-base" else 16384))
    bundle = bench.open(name, "fp16")
    stages = bundle.stages({}, max_length=max_length, dedupe=False)
    batches = list(stages.cut(stages.encode(_window(rows))))
    tokens = [int(n) for batch in batches for n in batch.feeds["attention_mask"].sum(axis=1)]
    # Each thread has its own buffers, as in a run.
    session = partial(_session, stages, batches, ThreadPoolExecutor(2))
    copies = 1 if bench.quick else _copies(session)
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"max_length": max_length, "dedupe": False}
        calls: dict[str, Callable[[], Any]] = {
            "session": session,
            "run": _run(bundle, rows * copies, Path(scratch), settings),
        }
        for peer, merged in TORCH.items():
            if torch_call := _torch(bench, name, batches, merged):
                calls[peer] = torch_call
        seconds = time_in_turns(calls, bench)
    seconds["run"] = [round(each / copies, 5) for each in seconds["run"]]
    job = {"checkpoint": str(bench.folder(name, "checkpoint")), "output_tokens": []}
    work = operations({**job, "input_tokens": tokens})
    return {
        "model": name,
        "lengths": kind,
        "rows": len(rows),
        "run_copies": copies,
        "tokens": sum(tokens),
        "padding": round(sum(b.padded for b in batches) / sum(tokens), 3),
        "seconds": seconds,
        "rows_per_second": _rates(seconds, len(rows)),
        "tokens_per_second": _rates(seconds, sum(tokens)),
        "share_of_peak": _share(work, _median(seconds, "session"), peak),
        "session_against_torch": _ratio(seconds, _fastest(seconds, TORCH), "session"),
        "session_against_same_batches": _ratio(seconds, "torch", "session"),
        "run_against_session": _ratio(seconds, "session", "run"),
    }


def _window(rows: list[str]) -> Rows:
    return Rows(None, (pa.array(rows),), numbers=np.arange(len(rows)))


def _session(stages: Stages, batches: list[Batch], pool: ThreadPoolExecutor) -> None:
    """Inference alone, with as many batches in flight as the pool has threads."""
    list(pool.map(stages.infer, batches))


def _copies(session: Callable[[], Any]) -> int:
    """How many copies of the rows a run gets, so that it lasts `LASTING` seconds."""
    session()
    start = time.perf_counter()
    session()
    return max(1, round(LASTING / (time.perf_counter() - start)))


def _run(
    bundle: Bundle, rows: list[str], scratch: Path, settings: dict[str, Any]
) -> Callable[[], Any]:
    """Parquet in, Arrow out."""
    import pyarrow.parquet as pq

    file = scratch / "rows.parquet"
    pq.write_table(pa.table({"text": rows}), file)

    def call() -> None:
        out = Path(tempfile.mkdtemp(dir=scratch))
        engine.run(bundle, file, out / "out", **settings)
        shutil.rmtree(out)

    return call


def _torch(bench: Bench, name: str, batches: list[Batch], merged: int) -> Callable[[], Any] | None:
    """torch in float16 with fused attention, over the same sorted batches, `merged` of them joined
    into one; pooled on the GPU."""
    if (torch := _module("torch")) is None or (transformers := _module("transformers")) is None:
        return None
    kind = bench.device
    loaded = transformers.AutoModel.from_pretrained(
        bench.folder(name, "checkpoint"), attn_implementation="sdpa"
    )
    model = (loaded.half() if kind != "cpu" else loaded).to(kind).eval()
    groups = [batches[n : n + merged] for n in range(0, len(batches), merged)]
    inputs = [{n: torch.tensor(a).to(kind) for n, a in _join(group).items()} for group in groups]

    def call() -> None:
        with torch.inference_mode():
            pooled = []
            for feeds in inputs:
                mask = feeds["attention_mask"][..., None]
                states = model(**feeds).last_hidden_state
                pooled.append((states * mask).sum(1) / mask.sum(1))
            for embeddings in pooled:
                embeddings.float().cpu()

    return call


def _join(batches: list[Batch]) -> dict[str, Any]:
    """The feeds of several batches in one, padded to the widest."""
    width = max(int(batch.feeds["input_ids"].shape[1]) for batch in batches)
    feeds = [batch.feeds for batch in batches]
    return {
        name: np.concatenate(
            [np.pad(f[name], ((0, 0), (0, width - f[name].shape[1]))) for f in feeds]
        )
        for name in feeds[0]
    }


# --- decoding


def decode(bench: Bench, peak: float) -> list[dict[str, Any]]:
    slots = (4,) if bench.quick else (32, 128, 512)
    cases = [(beams, count) for beams in (1, 4) for count in slots]
    return [_decode(bench, beams, count, peak) for beams, count in cases]


def _decode(bench: Bench, beams: int, slots: int, peak: float) -> dict[str, Any]:
    # Enough rows for every slot to be filled a few times.
    rows, outputs = sources(bench.rows(4 * max(8, slots // beams)))
    options = {"num_beams": beams, "max_new_tokens": 128}
    default, device_cache.MOST = device_cache.MOST, slots
    try:
        bundle = bench.open("t5-small", "fp16")
        watched = _watched(bundle.backend)
        stages = Bundle(bundle.folder, watched).stages(options, dedupe=False)
        batches = list(stages.cut(stages.encode(_window(rows))))
        calls: dict[str, Callable[[], Any]] = {
            "engine": lambda: [stages.infer(batch) for batch in batches]
        }
        calls |= _peers(bench, rows, beams, slots)
        seconds = time_in_turns(calls, bench)
        host = _host_share(watched, calls["engine"])
    finally:
        device_cache.MOST = default
    job = {"checkpoint": str(bench.folder("t5-small", "checkpoint"))}
    lengths = [int(n) for b in batches for n in b.feeds["attention_mask"].sum(axis=1)]
    work = operations({**job, "input_tokens": lengths, "output_tokens": outputs}) * beams
    return {
        "beams": beams,
        "slots": slots,
        "rows": len(rows),
        "output_tokens": sum(outputs),
        "seconds": seconds,
        "rows_per_second": _rates(seconds, len(rows)),
        "tokens_per_second": _rates(seconds, sum(outputs)),
        "share_of_peak": _share(work, _median(seconds, "engine"), peak),
        **host,
        "against_transformers": _ratio(seconds, "transformers", "engine"),
        "against_ctranslate2": _ratio(seconds, "ctranslate2", "engine"),
    }


def _watched(backend: Backend) -> TimedBackend:
    """A backend whose computing and waiting are timed."""
    watched = TimedBackend(backend)

    def host(value: Any) -> Any:
        with watched.timed("host"):
            return backend.host(value)

    watched.host = host
    return watched


def _host_share(watched: TimedBackend, call: Callable[[], Any]) -> dict[str, Any]:
    """Host time (outside of the backend), as a share and for each decode step."""
    watched.forget()
    start = time.perf_counter()
    call()
    total = time.perf_counter() - start
    outside = total - sum(watched.telemetry.seconds.values())
    counts = watched.telemetry.counts
    steps = counts["device_step"] or counts["step"] or 1
    return {
        "steps": steps,
        "host_share": round(outside / total, 4),
        "host_microseconds_a_step": round(1e6 * outside / steps, 1),
    }


def _peers(bench: Bench, rows: list[str], beams: int, slots: int) -> dict[str, Callable[[], Any]]:
    checkpoint, batch = bench.folder("t5-small", "checkpoint"), max(1, slots // beams)
    makers = {"transformers": _transformers, "ctranslate2": _ctranslate2}
    calls = {}
    for name, make in makers.items():
        if call := make(bench, checkpoint, rows, beams, batch):
            calls[name] = call
    return calls


def _transformers(
    bench: Bench, checkpoint: Path, rows: list[str], beams: int, batch: int
) -> Callable[[], Any] | None:
    if (torch := _module("torch")) is None or (transformers := _module("transformers")) is None:
        return None
    kind = bench.device
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    model = (loaded.half() if kind != "cpu" else loaded).to(kind).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    order = sorted(rows, key=len, reverse=True)
    inputs = [
        tokenizer(order[n : n + batch], padding=True, return_tensors="pt").to(kind)
        for n in range(0, len(order), batch)
    ]
    options = {"num_beams": beams, "max_new_tokens": 128, "do_sample": False}

    def call() -> None:
        with torch.inference_mode():
            for feeds in inputs:
                ids = {n: feeds[n] for n in ("input_ids", "attention_mask")}
                model.generate(**ids, **options).cpu()

    return call


def _ctranslate2(
    bench: Bench, checkpoint: Path, rows: list[str], beams: int, batch: int
) -> Callable[[], Any] | None:
    if (ctranslate2 := _module("ctranslate2")) is None or _module("transformers") is None:
        return None
    import transformers

    folder = checkpoint.with_name("ctranslate2")
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(str(folder))
    device = Device.parse(bench.device)
    where = {"device": device.kind, "device_index": device.index}
    precision = "float16" if device.is_gpu else "float32"
    model = ctranslate2.Translator(str(folder), compute_type=precision, **where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokens = [encoding.tokens for encoding in tokenizer(rows).encodings]
    options = {"beam_size": beams, "max_batch_size": batch, "max_decoding_length": 128}
    return lambda: model.translate_batch(tokens, **options)


# --- the GPU


def peak(bench: Bench) -> float:
    """TFLOP/s of a bf16 product of 8,192 × 8,192 matrices in torch; 0 without a GPU."""
    torch = _module("torch")
    if torch is None or bench.device == "cpu":
        return 0.0
    size, seconds = 8192, []
    kinds = {"dtype": torch.bfloat16, "device": bench.device}
    left, right = (torch.randn(size, size, **kinds) for _ in range(2))
    for _ in range(30):
        torch.cuda.synchronize(bench.device)
        start = time.perf_counter()
        left @ right
        torch.cuda.synchronize(bench.device)
        seconds.append(time.perf_counter() - start)
    return float(round(2e-12 * size**3 / statistics.median(seconds[5:]), 1))


def used(bench: Bench) -> int:
    """MiB of the GPU in use, by nvidia-smi; 0 without one."""
    index = Device.parse(bench.device).index
    command = [
        "nvidia-smi",
        f"--id={index}",
        "--query-gpu=memory.used",
        "--format=csv,noheader,nounits",
    ]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(int(line) for line in output.split())


def memory(bench: Bench) -> dict[str, Any]:
    """MiB in use before, and after each pass over the same rows: a decoder's, then an encoder's."""
    to_decode, _ = sources(bench.rows(1024))
    to_encode, max_length = corpus("mixed", bench.rows(8192))
    gc.collect()  # sessions of earlier parts
    before = used(bench)
    decoder, encoder = bench.open("t5-small", "fp16"), bench.open("minilm", "fp16")
    calls: dict[str, Callable[[], Any]] = {
        "decoder": lambda: decoder(to_decode, num_beams=1, max_new_tokens=128),
        "encoder": lambda: encoder(to_encode, max_length=max_length),
    }
    loaded = used(bench)
    passes = {name: [_used_after(bench, call) for _ in range(5)] for name, call in calls.items()}
    return {"before_mib": before, "loaded_mib": loaded, "after_mib": passes}


def _used_after(bench: Bench, call: Callable[[], Any]) -> int:
    call()
    return used(bench)


# --- several GPUs


def several(bench: Bench) -> dict[str, Any]:
    """A run over every GPU beside a run on one: the same bytes, and the seconds of both.

    Where there is one GPU, two processes share it, which shows that the processes work together
    and not what a second GPU brings.
    """
    import pyarrow.parquet as pq

    to_encode, max_length = corpus("mixed", bench.rows(32768))
    one = resolve(bench.device)
    every = devices(ALL) if one.is_gpu else (one,)
    workers = every if len(every) > 1 else (one, one)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for n in range(8):
            rows = to_encode[n::8]
            pq.write_table(pa.table({"text": rows}), Path(scratch) / f"rows-{n}.parquet")
        for name, used_devices in (("one", (one,)), ("several", workers)):
            start = time.perf_counter()
            with patch.object(plan, "devices", lambda _, chosen=used_devices: chosen):
                engine.run(
                    bench.folder("minilm", "fp16"), f"{scratch}/rows-*.parquet",
                    f"{scratch}/{name}", device=bench.device, max_length=max_length,
                )  # fmt: skip
            seconds[name] = round(time.perf_counter() - start, 3)
        parts = [sorted(Path(scratch, name).glob("part-*")) for name in ("one", "several")]
        same = [a.read_bytes() == b.read_bytes() for a, b in zip(*parts, strict=True)]
    return {
        "devices": [str(device) for device in workers],
        "rows": len(to_encode),
        "parts": len(same),
        "parts_equal": sum(same),
        "seconds": seconds,
    }


# --- figures


def time_in_turns(calls: dict[str, Callable[[], Any]], bench: Bench) -> dict[str, list[float]]:
    """Seconds of each call in every round, after a round of warming up. A call that has taken more
    than `bench.most` seconds is left out of further rounds, but is timed once at least."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for turn in range(bench.rounds + 1):
        for name, call in calls.items():
            if turn > 1 and spent[name] > bench.most:
                continue
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            spent[name] += elapsed
            if turn:
                seconds[name].append(round(elapsed, 5))
    return seconds


def _median(seconds: dict[str, list[float]], name: str) -> float:
    return statistics.median(seconds[name])


def _fastest(seconds: dict[str, list[float]], names: Iterable[str]) -> str:
    measured = [name for name in names if name in seconds]
    return min(measured, key=lambda name: _median(seconds, name), default="")


def _rates(seconds: dict[str, list[float]], count: int) -> dict[str, float]:
    return {name: round(count / _median(seconds, name), 1) for name in seconds}


def _ratio(seconds: dict[str, list[float]], theirs: str, ours: str) -> float | None:
    """How many times as fast ours is: the median over the rounds, or the ratio of the medians where
    one had fewer rounds; None where one did not take part."""
    if theirs not in seconds or ours not in seconds:
        return None
    if len(seconds[theirs]) != len(seconds[ours]):
        return round(_median(seconds, theirs) / _median(seconds, ours), 3)
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def _share(work: float, seconds: float, peak: float) -> float | None:
    """Of the GPU's own product, `peak` TFLOP/s."""
    return round(work / seconds / (peak * 1e12), 4) if peak else None


def _module(name: str) -> Any | None:
    """An installed package, or None; a file of its name on the path (such as peers/NAME.py) does
    not count."""
    try:
        importlib.metadata.distribution(name)
        return importlib.import_module(name)
    except ImportError:  # PackageNotFoundError is one
        return None


Targets = list[tuple[str, Any, str, float]]


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets for an H100 beside what was measured, for the parts that were."""
    parts: dict[str, Callable[[Any], Targets]] = {
        "parity": _parity_targets,
        "encode": _encode_targets,
        "decode": _decode_targets,
    }
    return [
        {
            "what": what,
            "found": value,
            "asked": f"{sign} {limit:g}",
            "reached": _holds(value, sign, limit),
        }
        for name, targets_of in parts.items()
        if name in result
        for what, value, sign, limit in targets_of(result[name])
    ]


def _parity_targets(parity: dict[str, Any]) -> Targets:
    return [
        ("greedy rows equal to fp32 on the CPU", parity["greedy_rows_equal"], ">=", 0.99),
        ("worst cosine to fp32", parity["bert-base_cosine_worst"], ">=", 0.9995),
        ("labels equal", parity["labels_equal"], ">=", 0.999),
    ]


def _encode_targets(encoded: list[dict[str, Any]]) -> Targets:
    long = next(e for e in encoded if (e["model"], e["lengths"]) == ("bert-base", "128"))
    return [
        ("BERT-base at 128, share of the peak", long["share_of_peak"], ">=", 0.4),
        ("BERT-base at 128, times torch", long["session_against_torch"], ">=", 1.3),
        ("run, times the session alone", long["run_against_session"], ">=", 0.87),
    ]


def _decode_targets(decoded: list[dict[str, Any]]) -> Targets:
    greedy = [d for d in decoded if d["beams"] == 1]
    best = max(greedy, key=lambda d: float(d["tokens_per_second"]["engine"]))
    return [
        ("greedy tokens/s", best["tokens_per_second"]["engine"], ">=", 100_000),
        ("greedy, times transformers", best["against_transformers"], ">=", 10),
        ("greedy, times CTranslate2", best["against_ctranslate2"], ">=", 1.5),
        ("host share of a step", best["host_share"], "<=", 0.1),
    ]


def _holds(value: float | None, sign: str, limit: float) -> bool | None:
    if value is None:
        return None
    return value >= limit if sign == ">=" else value <= limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints and bundles")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=float, default=60.0, help="seconds for all rounds of a call")
    parser.add_argument("--quick", action="store_true", help="small shapes and few rows")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--prepare", action="store_true", help="only make checkpoints and bundles")
    parser.add_argument("--out", type=Path, help="write the result there, JSON")
    parser.add_argument("--save", action="store_true", help="write results/gpu-NAME.json")
    arguments = parser.parse_args()
    started = time.perf_counter()
    work = arguments.work / "quick" if arguments.quick else arguments.work
    bench = Bench(work, arguments.device, arguments.rounds, arguments.quick, arguments.most)
    prepare(bench)
    if arguments.prepare:
        return
    result = measure(bench, arguments.parts, partial(_write, arguments.out))
    result["seconds"] = round(time.perf_counter() - started, 1)
    _write(arguments.out, result)
    for target in result["targets"]:
        print(f"{target['what']}: {target['found']} (target: {target['asked']})")
    if arguments.save:
        gpu = "-".join(str(result["ran"].get("gpu") or "cpu").lower().split())
        print(save(f"gpu-{gpu}", result))


def _write(out: Path | None, result: dict[str, Any]) -> None:
    if out:
        text = json.dumps({"machine": describe(), **result}, indent=2)
        out.write_text(text + "\n", encoding="utf-8")


def measure(
    bench: Bench, parts: Sequence[str], write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure those parts; print each and write the result so far when it is finished."""
    # torch first: the engine then finds the CUDA libraries that torch has loaded.
    _module("torch")
    result: dict[str, Any] = {"ran": bench.open("minilm", "fp16").backend.ran}
    result["gpus"] = [gpu.name for gpu in cuda.look().gpus]
    result["batch_tokens"] = GPU_TOKENS
    result["peak_tflops"] = product = peak(bench)
    measures: dict[str, Callable[[], Any]] = {
        "parity": lambda: parity(bench),
        "encode": lambda: encode(bench, product),
        "decode": lambda: decode(bench, product),
        "memory": lambda: memory(bench),
        "several": lambda: several(bench),
    }
    for name in parts:
        result[name] = measures[name]()
        print(f"{name}: {json.dumps(result[name])}", flush=True)
        write(result)
    return {**result, "targets": targets(result)}


if __name__ == "__main__":
    main()
