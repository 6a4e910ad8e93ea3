"""A backend without a model, a tokenizer of few words, and bundles and corpora made of them.

The fakes answer by arithmetic: a row's answer is a function of its own token ids, and what stands
at padded positions depends on the batch, so that code which looks there gives itself away.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine import data
from engine.bundle import format as bundle_format
from engine.bundle.format import DecoderConfig, Description, ModelConfig
from engine.core.device import CPU, Device
from engine.core.graphs import GraphRecord, Role
from engine.core.types import CorpusFile
from engine.pipeline import Bundle

PAD, END, UNKNOWN = 0, 1, 2
WORDS = tuple(f"w{i}" for i in range(60))
FIRST_WORD = 3
VOCABULARY = FIRST_WORD + len(WORDS)
DIMENSIONS = 6
LABELS = ("bad", "fair", "good")
GENERATION = DecoderConfig(
    start_id=PAD,
    end_ids=(END,),
    pad_id=PAD,
    max_new_tokens=8,
    layers=2,
    heads=2,
    head_dim=3,
    vocabulary=VOCABULARY,
)
MODEL_CONFIGS = {
    "feature-extraction": ModelConfig(max_length=32, pooling="mean", dimensions=DIMENSIONS),
    "text-classification": ModelConfig(
        max_length=32, labels=LABELS, problem_type="single_label_classification"
    ),
    "translation": ModelConfig(max_length=32, decoder=GENERATION),
    "summarization": ModelConfig(max_length=32, decoder=GENERATION),
    "text2text-generation": ModelConfig(max_length=32, decoder=GENERATION),
    "text-generation": ModelConfig(
        max_length=32, decoder=dataclasses.replace(GENERATION, start_id=-1, bos_id=END)
    ),
    "question-answering": ModelConfig(max_length=32),
    "zero-shot-classification": ModelConfig(
        max_length=32, labels=("contradiction", "entailment", "neutral")
    ),
    "rerank": ModelConfig(max_length=32, labels=("LABEL_0",)),
    "fill-mask": ModelConfig(max_length=32, mask_id=UNKNOWN, mask_token="<unk>"),
    "token-classification": ModelConfig(max_length=32, labels=("O", "B-PER", "I-PER")),
}


@dataclass(frozen=True)
class Buffer:
    """A value that stays with the backend until `host` asks for it."""

    array: NDArray[Any]
    memory: NDArray[Any] | None = None


def number(*parts: object) -> int:
    """An arbitrary number that is the same for the same parts, in every process."""
    return zlib.crc32(repr(parts).encode())


def real(feeds: Mapping[str, NDArray[Any]]) -> list[tuple[int, ...]]:
    """The token ids of each row that its mask lets through, type ids beside them."""
    types = feeds.get("token_type_ids", np.zeros_like(feeds["input_ids"]))
    return [
        tuple((feeds["input_ids"][i] + VOCABULARY * types[i])[mask == 1].tolist())
        for i, mask in enumerate(feeds["attention_mask"])
    ]


def hidden_of(ids: tuple[int, ...]) -> list[list[int]]:
    """Small whole numbers, so that sums of them are exact in float32 in any order."""
    return [[number(ids, t, d) % 255 - 127 for d in range(DIMENSIONS)] for t in range(len(ids))]


def logits_of(ids: tuple[int, ...]) -> list[float]:
    return [(number(ids, label) % 1000 - 500) / 100 for label in range(len(LABELS))]


def next_token(signature: int, so_far: Sequence[int]) -> int:
    """Of a row with this signature, after these decoder inputs, the start token among them."""
    drawn = number(signature, tuple(so_far))
    return END if drawn % 5 == 0 else FIRST_WORD + drawn % len(WORDS)


def decoded(ids: tuple[int, ...], most: int) -> tuple[list[int], bool]:
    """What greedy decoding of one row has to give: the tokens, and whether the row ended."""
    so_far = [GENERATION.start_id]
    while len(so_far) <= most and so_far[-1] != END:
        so_far.append(next_token(signature(ids), so_far))
    return so_far[1:], so_far[-1] == END


def certain(signature: int, so_far: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that leave no doubt about the next token."""
    logits = np.zeros(VOCABULARY, np.float32)
    logits[next_token(signature, so_far)] = 1.0
    return logits


def signature(ids: tuple[int, ...]) -> int:
    return number(ids) % 10_007


@dataclass
class FakeGraph:
    backend: FakeBackend
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]

    @property
    def dtypes(self) -> dict[str, Any]:
        return dict.fromkeys((*self.inputs, *self.outputs), np.float32)

    def run(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> list[Buffer]:
        assert set(feeds) == set(self.inputs), (self.name, sorted(feeds))
        assert set(fetch) <= set(self.outputs), (self.name, fetch)
        arrays = {n: v.array if isinstance(v, Buffer) else v for n, v in feeds.items()}
        self.backend.called(self.name, arrays.get("input_ids", arrays.get("tokens")).shape)  # type: ignore[union-attr]  # one of the two is there
        results = self.compute(arrays)
        return [Buffer(results[name]) for name in fetch]

    def bind(
        self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> Callable[[], None]:
        assert set(inputs) == set(self.inputs)
        assert set(outputs) == set(self.outputs)
        assert all(outputs[f"present.{k}"] is inputs[f"past.{k}"] for k in _KINDS)
        own = ("logits", "best", "best_scores")

        def run() -> None:
            self.backend.called(self.name, inputs["tokens"].array.shape)
            outcome = self.compute({name: held.array for name, held in inputs.items()})
            for name in own:
                outputs[name].array[:] = outcome[name]

        return run


@dataclass
class FakeBackend:
    """Behind `flow.Backend`.

    Args:
        type_ids: Whether the encoder reads token_type_ids.
        causal: Whether the decoder has no encoder; its rows' signature is 0, and they are what
            they have read.
        logits: Of the next token, after a row's signature and the tokens it has read.
        before: Called before each graph call with its number, from 0; may raise, wait or set off.
    """

    type_ids: bool = False
    before: Callable[[int], None] = lambda call: None
    causal: bool = False
    logits: Callable[[int, tuple[int, ...]], NDArray[np.float32]] = certain
    device: Device = CPU
    cache_bytes: int = 1 << 30
    shapes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    roles: frozenset[Role] = frozenset({"model"})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ran(self) -> dict[str, Any]:
        return {"device": str(self.device)}

    def called(self, graph: str, shape: tuple[int, ...]) -> None:
        with self._lock:
            call = len(self.shapes)
            self.shapes.append((graph, shape))
        self.before(call)

    def graph(self, name: Role, beams: int = 1) -> FakeGraph:
        read = ("input_ids", "attention_mask")
        layers = range(GENERATION.layers)

        def names(kind: str) -> tuple[str, ...]:
            return tuple(f"{kind}.{n}.{part}" for n in layers for part in ("key", "value"))

        if name == "model":
            typed = (*read, "token_type_ids") if self.type_ids else read
            return FakeGraph(self, name, typed, ("last_hidden_state", "logits"), _model)
        if name == "encoder":
            return FakeGraph(self, name, read, names("cross"), _encoder)
        assert name == "step", name
        fixed = ("tokens", "lengths", "total", "picks", "scored")
        results = ("logits", "best", "best_scores", *names("present"))
        if self.causal:
            known = (*fixed, "logit_rows", *names("past"))
            return FakeGraph(self, name, known, results, partial(_step, self.logits))
        cross = (*names("cross"), *names("last"), "source_last", "source_total")
        known = (*fixed, *names("past"), *cross)
        outputs = (*results, *names("cross_present"))
        return FakeGraph(self, name, known, outputs, partial(_step, self.logits, beams=beams))

    def host(self, value: Any) -> NDArray[Any]:
        assert isinstance(value, Buffer), "only the backend's own values come back through host"
        return value.array

    def buffer(self, shape: Sequence[int], dtype: Any, old: Buffer | None = None) -> Buffer:
        size = math.prod(shape)
        if old is None or old.memory is None or old.memory.size < size:
            memory = np.zeros(size, dtype)
        else:
            memory = old.memory
        return Buffer(memory[:size].reshape(shape), memory)

    def parts(self, buffer: Buffer) -> list[Buffer]:
        return [Buffer(part, part.reshape(-1)) for part in buffer.array]

    def put(self, buffer: Buffer, array: NDArray[Any]) -> None:
        buffer.array[...] = array

    def stoppable(self) -> Any:
        return self, lambda: None

    def serially(self, call: Any) -> Any:
        return call()


def _model(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    rows = real(feeds)
    shape = feeds["input_ids"].shape
    hidden = np.full((*shape, DIMENSIONS), 1e6 + number(shape), np.float32)
    for i, ids in enumerate(rows):
        hidden[i, : len(ids)] = np.array(hidden_of(ids), np.float32).reshape(-1, DIMENSIONS)
    logits = np.array([logits_of(ids) for ids in rows], np.float32)
    return {"last_hidden_state": hidden, "logits": logits}


def _encoder(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every key and value is the row's signature, and noise where the row is padded."""
    mask = feeds["attention_mask"]
    signs = np.array([signature(ids) for ids in real(feeds)], np.float32)
    cross = np.where(mask == 1, signs[:, None], float(mask.size))[:, None, :, None]
    cross = np.tile(cross.astype(np.float32), (1, GENERATION.heads, 1, GENERATION.head_dim))
    kinds = [f"cross.{n}.{p}" for n in range(GENERATION.layers) for p in ("key", "value")]
    return {name: cross + i for i, name in enumerate(kinds)}


_KINDS = tuple(f"{n}.{p}" for n in range(GENERATION.layers) for p in ("key", "value"))
_Logits = Callable[[int, tuple[int, ...]], "NDArray[np.float32]"]


def _step(
    next_of: _Logits, feeds: Mapping[str, NDArray[Any]], beams: int = 1
) -> dict[str, NDArray[Any]]:
    """One step over a cache in place, or a causal model's first pass over prompts."""
    tokens, lengths, total = feeds["tokens"], feeds["lengths"], int(feeds["total"])
    if tokens.ndim == 2 and not feeds[f"past.{_KINDS[0]}"].shape[2]:
        assert total == tokens.shape[1]
        return _grown({**feeds, "input_ids": tokens})
    assert total == lengths.max() + 1
    assert total <= feeds[f"past.{_KINDS[0]}"].shape[2], "no room is left"
    logits = np.empty((len(tokens), VOCABULARY), np.float32)
    for slot, (token, length) in enumerate(zip(tokens.ravel(), lengths, strict=True)):
        for i, kind in enumerate(_KINDS):
            feeds[f"past.{kind}"][slot, :, length] = token + i
        own = [feeds[f"past.{kind}"][slot, :, : length + 1] - i for i, kind in enumerate(_KINDS)]
        assert all((one == own[0][:1, :, :1]).all() for one in own), "another layer's cache"
        so_far = tuple(own[0][0, :, 0].astype(int).tolist())
        logits[slot] = next_of(_sign(feeds, slot // beams), so_far)
    best = np.argsort(-logits, axis=1, kind="stable")[:, : int(feeds["picks"][0])]
    scores = logits - logits.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    picked = np.take_along_axis(scores if feeds["scored"] else logits, best, axis=1)
    return {"logits": logits, "best": best, "best_scores": picked}


def _sign(feeds: Mapping[str, NDArray[Any]], row: int) -> int:
    """The signature that a row's part of the encoder's keys and values stands for."""
    if "source_last" not in feeds:
        return 0
    stop = int(feeds["source_last"][row]) + 1
    signs = {
        float(v) - i
        for i, kind in enumerate(_KINDS)
        for values in (feeds[f"cross.{kind}"][row, :, :stop], feeds[f"last.{kind}"][row])
        for v in values.ravel()
    }
    assert len(signs) == 1, "what one row reads of the encoder came in for another's"
    return int(signs.pop())


def _grown(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    last = feeds["input_ids"]
    shape = (len(last), GENERATION.heads, last.shape[1], GENERATION.head_dim)
    present = {}
    for i, kind in enumerate(_KINDS):
        past = feeds[f"past.{kind}"]
        assert past.dtype == np.float32
        assert past.shape[:2] == shape[:2]
        own = np.full(shape, i, np.float32) + last[:, None, :, None].astype(np.float32)
        present[f"present.{kind}"] = np.concatenate([past, own], axis=2)
    return present


def write_tokenizer(file: Path) -> None:
    """One word, one token, and an end token behind each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN}
    ids |= {word: FIRST_WORD + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", END)]
    )
    tokenizer.save(str(file))


def ids_of(text: str) -> tuple[int, ...]:
    """What the tokenizer makes of a text of known words."""
    return (*(FIRST_WORD + WORDS.index(word) for word in text.split()), END)


def text_of(tokens: Iterable[int]) -> str:
    return " ".join(WORDS[t - FIRST_WORD] for t in tokens if t >= FIRST_WORD)


def make_bundle(
    folder: Path, task: str = "feature-extraction", model_config: ModelConfig | None = None
) -> Path:
    """A bundle's folder whose graphs are stand-ins of a few bytes."""
    folder.mkdir(parents=True)
    write_tokenizer(folder / "tokenizer.json")
    model_config = model_config or MODEL_CONFIGS[task]
    graphs: tuple[Role, ...] = ("model",)
    if model_config.decoder:
        graphs = ("step",) if model_config.decoder.causal else ("encoder", "step")
    for graph in graphs:
        (folder / f"{graph}.onnx").write_bytes(graph.encode())
    records = tuple(GraphRecord(f"{graph}.onnx", graph) for graph in graphs)
    bundle_format.save(folder, Description(task, "fake", "fp32", model_config, graphs=records))
    return folder


def open_bundle(folder: Path, backend: FakeBackend | None = None) -> Bundle:
    return Bundle(bundle_format.load(folder), backend or FakeBackend())


def texts(rows: int, seed: int = 0, longest: int = 12) -> list[str]:
    """Texts of known words and mixed lengths."""
    drawn = np.random.default_rng(seed)
    return [
        " ".join(WORDS[i] for i in drawn.integers(0, len(WORDS), drawn.integers(1, longest + 1)))
        for _ in range(rows)
    ]


def write_jsonl(path: Path, rows: Sequence[str | None], first: int = 0) -> Path:
    lines = [json.dumps({"id": first + i, "text": text}) for i, text in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_parquet(
    path: Path, rows: Sequence[str | None], first: int = 0, group: int | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array(range(first, first + len(rows)), pa.int64()),
            "text": pa.array(rows, pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def write_arrow(path: Path, table: pa.Table, *, stream: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def corpus_files(paths: Iterable[Path]) -> list[CorpusFile]:
    """Files as a corpus has them, each named as itself."""
    return [CorpusFile(path, path.name, str(data.kind_of(path))) for path in paths]
