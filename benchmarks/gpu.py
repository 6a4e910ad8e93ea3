"""The engine on a GPU beside torch, transformers and CTranslate2: one command, no network.

    python benchmarks/gpu.py --save             everything; writes results/gpu-CARD.json
    python benchmarks/gpu.py --prepare          only makes checkpoints and bundles, on any machine
    python benchmarks/gpu.py --device cpu --quick      small shapes, to see that it runs

Checkpoints are random and of real shapes (`models.py`), made from a seed and exported once into
--work; where that is there already, neither Optimum nor transformers 4 is needed. First the answers
of fp16 on the GPU are held to those of fp32 on the CPU. Then every figure is the median of
--rounds, in turns with the peers: torch in float16 with its fused attention, the better of two
batch sizes, sorted by length and their tokens on the GPU before the clock starts; transformers'
generate() in float16; CTranslate2 in float16 where it is installed. Shares are of the GPU's own
bf16 product, measured.
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

import models
import numpy as np
import pyarrow as pa
import texts
from machine import describe, save
from prepare import operations
from workloads import ANSWERS, MIXED, SENTENCES

import engine
from engine.bench.profile import Watched
from engine.bundle import format as bundle_format
from engine.core.types import Batch, Rows
from engine.generation import device_cache
from engine.pipeline import GPU_TOKENS, Bundle, Stages
from engine.runtime import cuda
from engine.runtime.protocol import Backend

WORK = Path(__file__).with_name("work") / "gpu"
WORDS = 200_000
# Words, each a token or more: with the two special ones a row has 128, or is cut there.
LONG = texts.Lengths(126, 0, 126, 126)
LABELS = ("NEGATIVE", "POSITIVE")
# Seconds that a run end to end takes, about or more: a corpus is no work of a second, and processes
# that tokenize take a quarter of one to begin.
LASTING = 8.0
# The engine's batches that each way of asking torch joins into one: eager torch may be bound by the
# host where they are small, and is compared at its best.
TORCH = {"torch": 1, "torch_larger": 4}
PARTS = ("parity", "encode", "decode", "memory")


@dataclass(frozen=True)
class Shape:
    """A checkpoint: its task, and (folder, quick) -> one."""

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
    """What all measurements share."""

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


# --- making


def prepare(bench: Bench) -> None:
    """Checkpoints and bundles that are not there yet."""
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
        # Its answers are held to fp32's on the GPU itself: here a few do.
        sample = out.with_name("sample.jsonl")
        sample.write_text("".join(f'{{"text": "{text}"}}\n' for text in corpus("mixed", 8)[0]))
        fp32 = bench.folder(name, "fp32")
        quantize(fp32, out, recipe=recipe, sample=sample, text=("text",), force=True)


def asked(count: int, seed: int = 1) -> tuple[list[str], list[int]]:
    """Texts for t5-small's shape, and the tokens that each is answered in."""
    lengths = sorted(ANSWERS.draw(models.SENTINELS, 0))
    found = texts.cut(texts.words([]), SENTENCES.draw(count, seed))
    drawn = random.Random(2).choices(range(models.SENTINELS), k=count)
    told = [f"<extra_id_{j}> {text}" for j, text in zip(drawn, found, strict=True)]
    return told, [lengths[j] for j in drawn]


def corpus(kind: str, count: int) -> tuple[list[str], int]:
    """Texts for an encoder, and the tokens that one may have."""
    lengths, most = (LONG, 128) if kind == "128" else (MIXED, 256)
    return texts.cut(texts.words([]), lengths.draw(count, 1)), most


# --- parity


def parity(bench: Bench) -> dict[str, Any]:
    """fp16 where it is meant to run beside fp32 on the CPU, row by row."""
    count = bench.rows(200)
    told, _ = asked(count)
    greedy = {"num_beams": 1, "max_new_tokens": 128}
    said = _both(bench, "t5-small", told, "translation_text", greedy)
    found: dict[str, Any] = {"rows": count, "greedy_rows_equal": _equal(*said)}
    written, _ = corpus("mixed", count)
    for name in ("bert-base", "minilm"):
        ours, wanted = (np.array(v) for v in _both(bench, name, written, "embedding", {}))
        cosines = (ours * wanted).sum(1) / np.linalg.norm(ours, axis=1)
        cosines /= np.linalg.norm(wanted, axis=1)
        found[f"{name}_cosine_mean"] = round(float(cosines.mean()), 6)
        found[f"{name}_cosine_worst"] = round(float(cosines.min()), 6)
    found["labels_equal"] = _equal(*_both(bench, "classifier", written, "label", {}))
    return found


def _both(
    bench: Bench, name: str, rows: list[str], column: str, options: dict[str, Any]
) -> tuple[list[Any], list[Any]]:
    ours = bench.open(name, "fp16")(rows, **options)[column].to_pylist()
    return ours, bench.open(name, "fp32", "cpu")(rows, **options)[column].to_pylist()


def _equal(ours: list[Any], wanted: list[Any]) -> float:
    same = sum(a == b for a, b in zip(ours, wanted, strict=True))
    return round(float(same) / len(wanted), 4)


# --- encoding


def encode(bench: Bench, peak: float) -> list[dict[str, Any]]:
    return [
        _encoded(bench, name, kind, peak)
        for name in ("bert-base", "minilm")
        for kind in ("128", "mixed")
    ]


def _encoded(bench: Bench, name: str, kind: str, peak: float) -> dict[str, Any]:
    written, most = corpus(kind, bench.rows(8192 if name == "bert-base" else 16384))
    loaded = bench.open(name, "fp16")
    stages = loaded.stages({}, max_length=most, dedupe=False)
    batches = list(stages.cut(stages.encode(_window(written))))
    tokens = [int(n) for batch in batches for n in batch.feeds["attention_mask"].sum(axis=1)]
    # Threads have memory of their own, as in a run.
    session = partial(_session, stages, batches, ThreadPoolExecutor(2))
    copies = 1 if bench.quick else _copies(session)
    with tempfile.TemporaryDirectory() as scratch:
        given = {"max_length": most, "dedupe": False}
        calls: dict[str, Callable[[], Any]] = {
            "session": session,
            "run": _run(loaded, written * copies, Path(scratch), given),
        }
        for peer, merged in TORCH.items():
            if torch_call := _torch(bench, name, batches, merged):
                calls[peer] = torch_call
        seconds = measured(calls, bench)
    seconds["run"] = [round(each / copies, 5) for each in seconds["run"]]
    job = {"checkpoint": str(bench.folder(name, "checkpoint")), "output_tokens": []}
    work = operations({**job, "input_tokens": tokens})
    return {
        "model": name,
        "lengths": kind,
        "rows": len(written),
        "run_copies": copies,
        "tokens": sum(tokens),
        "padding": round(sum(b.padded for b in batches) / sum(tokens), 3),
        "seconds": seconds,
        "rows_per_second": _rates(seconds, len(written)),
        "tokens_per_second": _rates(seconds, sum(tokens)),
        "share_of_peak": _share(work, _median(seconds, "session"), peak),
        "session_against_torch": _ratio(seconds, _fastest(seconds, TORCH), "session"),
        "session_against_same_batches": _ratio(seconds, "torch", "session"),
        "run_against_session": _ratio(seconds, "session", "run"),
    }


def _window(written: list[str]) -> Rows:
    return Rows(None, (pa.array(written),), numbers=np.arange(len(written)))


def _session(stages: Stages, batches: list[Batch], pool: ThreadPoolExecutor) -> None:
    """Inference alone: as many batches in flight as the pool has threads."""
    list(pool.map(stages.infer, batches))


def _copies(session: Callable[[], Any]) -> int:
    """How many times over a run is given the rows."""
    session()
    start = time.perf_counter()
    session()
    return max(1, round(LASTING / (time.perf_counter() - start)))


def _run(
    loaded: Bundle, written: list[str], scratch: Path, given: dict[str, Any]
) -> Callable[[], Any]:
    """Parquet in, Arrow out."""
    import pyarrow.parquet as pq

    file = scratch / "rows.parquet"
    pq.write_table(pa.table({"text": written}), file)

    def call() -> None:
        out = Path(tempfile.mkdtemp(dir=scratch))
        engine.run(loaded, file, out / "out", **given)
        shutil.rmtree(out)

    return call


def _torch(bench: Bench, name: str, batches: list[Batch], merged: int) -> Callable[[], Any] | None:
    """torch in float16 with fused attention, over the same sorted batches, some of them `merged`
    into one, pooled on the GPU."""
    if (torch := _module("torch")) is None or (transformers := _module("transformers")) is None:
        return None
    kind = bench.device
    made = transformers.AutoModel.from_pretrained(
        bench.folder(name, "checkpoint"), attn_implementation="sdpa"
    )
    model = (made.half() if kind != "cpu" else made).to(kind).eval()
    groups = [batches[n : n + merged] for n in range(0, len(batches), merged)]
    fed = [{n: torch.tensor(a).to(kind) for n, a in _joined(group).items()} for group in groups]

    def call() -> None:
        with torch.inference_mode():
            found = []
            for feeds in fed:
                mask = feeds["attention_mask"][..., None]
                states = model(**feeds).last_hidden_state
                found.append((states * mask).sum(1) / mask.sum(1))
            for one in found:
                one.float().cpu()

    return call


def _joined(batches: list[Batch]) -> dict[str, Any]:
    """The feeds of several batches in one, as wide as the widest."""
    wide = max(int(batch.feeds["input_ids"].shape[1]) for batch in batches)
    feeds = [batch.feeds for batch in batches]
    return {
        name: np.concatenate(
            [np.pad(f[name], ((0, 0), (0, wide - f[name].shape[1]))) for f in feeds]
        )
        for name in feeds[0]
    }


# --- decoding


def decode(bench: Bench, peak: float) -> list[dict[str, Any]]:
    slots = (4,) if bench.quick else (32, 128, 512)
    cases = [(beams, count) for beams in (1, 4) for count in slots]
    return [_decoded(bench, beams, count, peak) for beams, count in cases]


def _decoded(bench: Bench, beams: int, slots: int, peak: float) -> dict[str, Any]:
    # Enough for every slot to be filled anew a few times.
    told, outputs = asked(bench.rows(4 * max(8, slots // beams)))
    options = {"num_beams": beams, "max_new_tokens": 128}
    kept, device_cache.MOST = device_cache.MOST, slots
    try:
        loaded = bench.open("t5-small", "fp16")
        watched = _watched(loaded.backend)
        seen = Bundle(loaded.folder, watched)
        stages = seen.stages(options, dedupe=False)
        batches = list(stages.cut(stages.encode(_window(told))))
        calls: dict[str, Callable[[], Any]] = {
            "engine": lambda: [stages.infer(batch) for batch in batches]
        }
        calls |= _generators(bench, told, beams, slots)
        seconds = measured(calls, bench)
        host = _host_share(watched, calls["engine"])
    finally:
        device_cache.MOST = kept
    job = {"checkpoint": str(bench.folder("t5-small", "checkpoint"))}
    lengths = [int(n) for b in batches for n in b.feeds["attention_mask"].sum(axis=1)]
    work = operations({**job, "input_tokens": lengths, "output_tokens": outputs}) * beams
    return {
        "beams": beams,
        "slots": slots,
        "rows": len(told),
        "output_tokens": sum(outputs),
        "seconds": seconds,
        "rows_per_second": _rates(seconds, len(told)),
        "tokens_per_second": _rates(seconds, sum(outputs)),
        "share_of_peak": _share(work, _median(seconds, "engine"), peak),
        **host,
        "against_transformers": _ratio(seconds, "transformers", "engine"),
        "against_ctranslate2": _ratio(seconds, "ctranslate2", "engine"),
    }


def _watched(backend: Backend) -> Watched:
    """Timed while it computes and while it is waited for."""
    watched = Watched(backend)

    def host(value: Any) -> Any:
        with watched.timed("host"):
            return backend.host(value)

    watched.host = host
    return watched


def _host_share(watched: Watched, call: Callable[[], Any]) -> dict[str, Any]:
    """Time outside of the backend, as a share and for each step."""
    watched.forget()
    start = time.perf_counter()
    call()
    total = time.perf_counter() - start
    outside = total - sum(watched.telemetry.seconds.values())
    counts = watched.telemetry.counts
    steps = counts["resident"] or counts["step"] or 1
    return {
        "steps": steps,
        "host_share": round(outside / total, 4),
        "host_microseconds_a_step": round(1e6 * outside / steps, 1),
    }


def _generators(
    bench: Bench, told: list[str], beams: int, slots: int
) -> dict[str, Callable[[], Any]]:
    checkpoint, batch = bench.folder("t5-small", "checkpoint"), max(1, slots // beams)
    makers = {"transformers": _transformers, "ctranslate2": _ctranslate2}
    found = {}
    for name, make in makers.items():
        if call := make(bench, checkpoint, told, beams, batch):
            found[name] = call
    return found


def _transformers(
    bench: Bench, checkpoint: Path, told: list[str], beams: int, batch: int
) -> Callable[[], Any] | None:
    if (torch := _module("torch")) is None or (transformers := _module("transformers")) is None:
        return None
    kind = bench.device
    made = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    model = (made.half() if kind != "cpu" else made).to(kind).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    order = sorted(told, key=len, reverse=True)
    fed = [
        tokenizer(order[n : n + batch], padding=True, return_tensors="pt").to(kind)
        for n in range(0, len(order), batch)
    ]
    options = {"num_beams": beams, "max_new_tokens": 128, "do_sample": False}

    def call() -> None:
        with torch.inference_mode():
            for feeds in fed:
                ids = {n: feeds[n] for n in ("input_ids", "attention_mask")}
                model.generate(**ids, **options).cpu()

    return call


def _ctranslate2(
    bench: Bench, checkpoint: Path, told: list[str], beams: int, batch: int
) -> Callable[[], Any] | None:
    if (ctranslate2 := _module("ctranslate2")) is None or _module("transformers") is None:
        return None
    import transformers

    folder = checkpoint.with_name("ctranslate2")
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(str(folder))
    kind, _, index = bench.device.partition(":")
    where = {"device": kind, "device_index": int(index or 0)}
    precision = "float32" if kind == "cpu" else "float16"
    model = ctranslate2.Translator(str(folder), compute_type=precision, **where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokens = [one.tokens for one in tokenizer(told).encodings]
    given = {"beam_size": beams, "max_batch_size": batch, "max_decoding_length": 128}
    return lambda: model.translate_batch(tokens, **given)


# --- the GPU


def peak(bench: Bench) -> float:
    """TFLOP/s of a bf16 product of 8,192 × 8,192 matrices in torch; 0 where there is no GPU."""
    torch = _module("torch")
    if torch is None or bench.device == "cpu":
        return 0.0
    size, took = 8192, []
    kinds = {"dtype": torch.bfloat16, "device": bench.device}
    left, right = (torch.randn(size, size, **kinds) for _ in range(2))
    for _ in range(30):
        torch.cuda.synchronize(bench.device)
        start = time.perf_counter()
        left @ right
        torch.cuda.synchronize(bench.device)
        took.append(time.perf_counter() - start)
    return float(round(2e-12 * size**3 / statistics.median(took[5:]), 1))


def used(bench: Bench) -> int:
    """MiB of the GPU in use, by nvidia-smi; 0 without one."""
    index = bench.device.partition(":")[2] or "0"
    ask = [
        "nvidia-smi",
        f"--id={index}",
        "--query-gpu=memory.used",
        "--format=csv,noheader,nounits",
    ]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(int(line) for line in told.split())


def memory(bench: Bench) -> dict[str, Any]:
    """MiB in use before, and behind each of five times the same rows."""
    told, _ = asked(bench.rows(1024))
    written, most = corpus("mixed", bench.rows(8192))
    gc.collect()  # sessions of earlier parts
    before = used(bench)
    decoder, encoder = bench.open("t5-small", "fp16"), bench.open("minilm", "fp16")

    def call() -> None:
        decoder(told, num_beams=1, max_new_tokens=128)
        encoder(written, max_length=most)

    behind = []
    for _ in range(5):
        call()
        behind.append(used(bench))
    return {"before_mib": before, "behind_mib": behind}


# --- figures


def measured(calls: dict[str, Callable[[], Any]], bench: Bench) -> dict[str, list[float]]:
    """Seconds of every round, in turns; a round before does not count. What has had its time is
    left out of further rounds, behind its first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for turn in range(bench.rounds + 1):
        for name, call in calls.items():
            if turn > 1 and spent[name] > bench.most:
                continue
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            spent[name] += took
            if turn:
                seconds[name].append(round(took, 5))
    return seconds


def _median(seconds: dict[str, list[float]], name: str) -> float:
    return statistics.median(seconds[name])


def _fastest(seconds: dict[str, list[float]], names: Iterable[str]) -> str:
    there = [name for name in names if name in seconds]
    return min(there, key=lambda name: _median(seconds, name), default="")


def _rates(seconds: dict[str, list[float]], count: int) -> dict[str, float]:
    return {name: round(count / _median(seconds, name), 1) for name in seconds}


def _ratio(seconds: dict[str, list[float]], theirs: str, ours: str) -> float | None:
    """How many times as fast, by the median of the rounds, which are compared one by one where both
    had as many; None where one did not take part."""
    if theirs not in seconds or ours not in seconds:
        return None
    if len(seconds[theirs]) != len(seconds[ours]):
        return round(_median(seconds, theirs) / _median(seconds, ours), 3)
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def _share(work: float, seconds: float, most: float) -> float | None:
    return round(work / seconds / (most * 1e12), 4) if most else None


def _module(name: str) -> Any | None:
    """A package that is installed: a file of its name on the path, as of peers/, is not it."""
    try:
        importlib.metadata.distribution(name)
        return importlib.import_module(name)
    except ImportError:  # PackageNotFoundError is one
        return None


Asked = list[tuple[str, Any, str, float]]


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is asked of an H100, and what was found, of the parts that were measured."""
    parts: dict[str, Callable[[Any], Asked]] = {
        "parity": _parity_asked,
        "encode": _encode_asked,
        "decode": _decode_asked,
    }
    asked_for = [one for name, ask in parts.items() if name in found for one in ask(found[name])]
    return [
        {"what": what, "found": value, "asked": f"{sign} {limit:g}", "reached": _holds(*rest)}
        for what, value, sign, limit in asked_for
        for rest in [(value, sign, limit)]
    ]


def _parity_asked(found: dict[str, Any]) -> Asked:
    return [
        ("greedy rows equal to fp32 on the CPU", found["greedy_rows_equal"], ">=", 0.99),
        ("worst cosine to fp32", found["bert-base_cosine_worst"], ">=", 0.9995),
        ("labels equal", found["labels_equal"], ">=", 0.999),
    ]


def _encode_asked(found: list[dict[str, Any]]) -> Asked:
    long = next(e for e in found if (e["model"], e["lengths"]) == ("bert-base", "128"))
    return [
        ("BERT-base at 128, share of the peak", long["share_of_peak"], ">=", 0.4),
        ("BERT-base at 128, times torch", long["session_against_torch"], ">=", 1.3),
        ("run, times the session alone", long["run_against_session"], ">=", 0.87),
    ]


def _decode_asked(found: list[dict[str, Any]]) -> Asked:
    greedy = [d for d in found if d["beams"] == 1]
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
    parser.add_argument("--most", type=float, default=60.0, help="seconds for one call's rounds")
    parser.add_argument("--quick", action="store_true", help="small shapes and few rows")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--prepare", action="store_true", help="make what is needed, and no more")
    parser.add_argument("--out", type=Path, help="write the result there, JSON")
    parser.add_argument("--save", action="store_true", help="write results/gpu-CARD.json")
    given = parser.parse_args()
    started = time.perf_counter()
    work = given.work / "quick" if given.quick else given.work
    bench = Bench(work, given.device, given.rounds, given.quick, given.most)
    prepare(bench)
    if given.prepare:
        return
    found = measure(bench, given.parts, partial(_write, given.out))
    found["seconds"] = round(time.perf_counter() - started, 1)
    _write(given.out, found)
    for target in found["targets"]:
        print(f"{target['what']}: {target['found']} (asked: {target['asked']})")
    if given.save:
        gpu = "-".join(str(found["ran"].get("gpu") or "cpu").lower().split())
        print(save(f"gpu-{gpu}", found))


def _write(out: Path | None, found: dict[str, Any]) -> None:
    if out:
        told = json.dumps({"machine": describe(), **found}, indent=2)
        out.write_text(told + "\n", encoding="utf-8")


def measure(
    bench: Bench, parts: Sequence[str], tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All of it, or some parts; each is printed and told when it is finished."""
    # Its libraries of CUDA first, where it has any: the engine then finds the same ones.
    _module("torch")
    found: dict[str, Any] = {"ran": bench.open("minilm", "fp16").backend.ran}
    found["gpus"] = [gpu.name for gpu in cuda.look().gpus]
    found["batch_tokens"] = GPU_TOKENS
    found["peak_tflops"] = most = peak(bench)
    ways: dict[str, Callable[[], Any]] = {
        "parity": lambda: parity(bench),
        "encode": lambda: encode(bench, most),
        "decode": lambda: decode(bench, most),
        "memory": lambda: memory(bench),
    }
    for name in parts:
        found[name] = ways[name]()
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        tell(found)
    return {**found, "targets": targets(found)}


if __name__ == "__main__":
    main()
