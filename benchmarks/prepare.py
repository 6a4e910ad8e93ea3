"""Makes and keeps what a workload needs: checkpoint, bundles, rows. Nothing here is timed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import models
import pyarrow as pa
import texts
from workloads import Workload

from engine.errors import EngineError, InputError

NLI = ("contradiction", "entailment", "neutral")
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
# Trained checkpoint; tokenizer of a random one; how to train that tokenizer if it is not there;
# BERT's head and its labels.
MODELS: dict[str, tuple[str, str, Callable[..., Any] | None, str, tuple[str, ...]]] = {
    "minilm": ("all-MiniLM-L6-v2", "bert-base-uncased", models.wordpiece, "Model", ()),
    "classifier": (
        "minilm-sst2", "bert-base-uncased", models.wordpiece, "ForSequenceClassification",
        ("NEGATIVE", "POSITIVE"),
    ),
    "tagger": (
        "minilm-wnut17", "bert-base-uncased", models.wordpiece, "ForTokenClassification", BIO
    ),
    "entailment": (
        "minilm-sick-nli", "bert-base-uncased", models.wordpiece, "ForSequenceClassification", NLI
    ),
    "t5": ("", "t5-small", models.unigram, "", ()),
    "gpt2": ("", "gpt2", models.bytes_bpe, "", ()),
    "qwen2": ("", "gpt2", models.bytes_bpe, "", ()),
    "flan-t5-small": ("flan-t5-small", "", None, "", ()),
}  # fmt: skip
RECIPES = ("fp32", "int8")
# Besides, of models that encode.
ENCODER_RECIPES = ("int8-static",)
GENERATING = ("translation", "summarization", "text2text-generation", "text-generation")


@dataclass(frozen=True)
class Sources:
    """Where results are kept, and what the person named: folders of checkpoints and tokenizers,
    text files, files of sentences."""

    work: Path
    models: Sequence[Path] = ()
    corpus: Sequence[Path] = ()
    sentences: Sequence[Path] = ()

    def folder(self, name: str, file: str) -> Path | None:
        """A folder of that name in `models` that has the file."""
        return next((m / name for m in self.models if name and (m / name / file).is_file()), None)

    def words(self) -> Iterator[str]:
        return texts.words(self.corpus)


def missing(workload: Workload, sources: Sources) -> str:
    """Why a workload cannot run with these sources, or ""."""
    if not workload.real:
        return ""
    name = MODELS[workload.model][0]
    if not sources.folder(name, "model.safetensors"):
        return f"needs --models with {name}"
    return "" if sources.sentences else "needs --sentences"


def prepare(name: str, workload: Workload, rows: int, sources: Sources) -> dict[str, Any]:
    """The job of a workload, which every contestant is given, with the tokens of each row."""
    folder = sources.work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lengths = sorted(workload.output.draw(models.SENTINELS, 0)) if workload.output else []
    checkpoint = _checkpoint(workload.model, lengths, sources)
    written, outputs = _rows(workload, rows, lengths, checkpoint, sources)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file:
        table = pa.table({"text": written})
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    recipes = RECIPES if workload.task in GENERATING else (*RECIPES, *ENCODER_RECIPES)
    bundles = {recipe: _bundle(checkpoint, workload.task, recipe) for recipe in recipes}
    if workload.real:
        outputs = _output_tokens(bundles["fp32"], written, workload)
    return {
        "task": workload.task,
        "columns": ["text"],
        "file": str(folder / "rows.arrow"),
        "checkpoint": str(checkpoint),
        "bundles": bundles,
        "onnx": str(_onnx(checkpoint)) if workload.task == "feature-extraction" else "",
        "cache": str(checkpoint.parent / "cache" / checkpoint.name / workload.task),
        "max_length": workload.max_length,
        "options": workload.options,
        "large": workload.model == "qwen2",
        "input_tokens": _tokens(checkpoint, written, workload),
        "output_tokens": outputs,
    }


def _checkpoint(model: str, lengths: list[int], sources: Sources) -> Path:
    """A trained one is copied, a random one is made again when `models` has changed."""
    name, tokenizer_name, make, head, labels = MODELS[model]
    trained = sources.folder(name, "model.safetensors")
    recipe = f"{_digest([Path(models.__file__)])} {tokenizer_name} {lengths}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    folder = sources.work / "models" / (model if trained else f"{model}-{key}")
    if (folder / "model.safetensors").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if trained:
        return models.copy(trained, folder)
    assert make
    tokenizer = _tokenizer(tokenizer_name, make, sources)
    if model == "t5":
        return models.t5_small(folder, tokenizer, lengths)
    if model == "gpt2":
        return models.gpt2(folder, tokenizer)
    if model == "qwen2":
        return models.qwen2(folder, tokenizer)
    return models.minilm(folder, tokenizer, head, labels)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _tokenizer(name: str, make: Callable[..., Any], sources: Sources) -> Any:
    import transformers

    kinds = {"bert-base-uncased": "Bert", "t5-small": "T5", "gpt2": "GPT2"}
    files = {"bert-base-uncased": "vocab.txt", "t5-small": "spiece.model", "gpt2": "vocab.json"}
    folder = sources.folder(name, files[name])
    if folder is None:
        return make(islice(sources.words(), 200_000))
    kind = getattr(transformers, f"{kinds[name]}TokenizerFast")
    return kind.from_pretrained(folder, model_max_length=512)


def _rows(
    workload: Workload, rows: int, lengths: list[int], checkpoint: Path, sources: Sources
) -> tuple[list[str], list[int]]:
    """Texts; and how many tokens each is answered in, where a random checkpoint fixes that."""
    if workload.real:
        lines = texts.lines(sources.sentences)
        if len(lines) < rows:
            raise InputError(f"{len(lines)} sentences, and {rows} are needed", "name a larger file")
        return [f"translate English to German: {line}" for line in lines[:rows]], []
    plain = texts.cut(sources.words(), workload.words.draw(rows, 1))
    if not workload.output:
        return plain, []
    drawn = random.Random(2).choices(range(models.SENTINELS), k=rows)
    outputs = [lengths[j] for j in drawn]
    if workload.task == "text-generation":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        chain = [tokenizer.decode([token]) for token in models.words_of(tokenizer, models.CHAIN)]
        return [t + chain[-n] for t, n in zip(plain, outputs, strict=True)], outputs
    return [f"<extra_id_{j}> {text}" for j, text in zip(drawn, plain, strict=True)], outputs


def _tokens(checkpoint: Path, rows: list[str], workload: Workload) -> list[int]:
    """Tokens of every sequence that the model reads: a row, or a row and a label."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    labels = workload.options.get("candidate_labels", ())
    pairs = [(row, f"This example is {label}.") for row in rows for label in labels]
    encoded = tokenizer.encode_batch(pairs or rows)
    return [min(len(sequence.ids), workload.max_length) for sequence in encoded]


def _output_tokens(bundle: str, rows: list[str], workload: Workload) -> list[int]:
    """Tokens of each of the fp32 bundle's answers."""
    import engine

    table = engine.Bundle.load(bundle)(rows, **workload.options)
    return [int(n) for n in table["output_tokens"].to_pylist()]


def _bundle(checkpoint: Path, task: str, recipe: str) -> str:
    """The bundle's folder; if the export fails, the reason in its place, and the contestant that
    is given it fails with that.

    It is exported again when the exporter has changed.
    """
    from engine import export as exporter
    from engine.export import export, quantize

    modules = sorted(Path(exporter.__file__).parent.rglob("*.py"))
    parent = checkpoint.parent / "bundles" / _digest(modules)
    folder = parent / f"{checkpoint.name}-{task}-{recipe}"
    if folder.exists():
        return str(folder)
    parent.mkdir(parents=True, exist_ok=True)
    try:
        # Forced: the table itself compares the answers.
        if recipe == "fp32":
            export(str(checkpoint), folder, task=task)
        else:
            plain = Path(_bundle(checkpoint, task, "fp32"))
            quantize(plain, folder, recipe=recipe, sample=_few_rows(parent), force=True)
    except EngineError as error:
        return str(error)
    return str(folder)


def _few_rows(folder: Path) -> Path:
    """A sample of few rows, since large models take minutes for many."""
    file = folder / "sample.jsonl"
    rows = ["The house is wonderful.", "In 1969, two people walked on the moon.", "No", "Hello."]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return file


def _onnx(checkpoint: Path) -> Path:
    """Optimum's plain export, for peers that read ONNX and cannot export it."""
    from optimum.exporters.onnx import main_export

    folder = checkpoint.parent / "onnx" / checkpoint.name
    if not (folder / "model.onnx").exists():
        main_export(str(checkpoint), folder, task="feature-extraction", library_name="transformers")
    return folder


def operations(job: dict[str, Any]) -> float:
    """Floating-point operations that the answers need: matrix products and attention, no padding.

    Counted from the configuration: 2 operations for each weight and token; in attention 4 for each
    pair of positions and hidden dimension. The number of output tokens has to be known; beams count
    once.
    """
    shape = json.loads(Path(job["checkpoint"], "config.json").read_text(encoding="utf-8"))
    lengths, outputs = job["input_tokens"], job["output_tokens"]
    if shape["model_type"] == "bert":
        d, layers, wide = (
            shape[n] for n in ("hidden_size", "num_hidden_layers", "intermediate_size")
        )
        weights = layers * (4 * d * d + 2 * d * wide)
        attention = layers * 4 * d
        return float(sum(2 * weights * n + attention * n * n for n in lengths))
    if shape["model_type"] == "t5":
        return _t5_operations(shape, lengths, outputs)
    if shape["model_type"] == "qwen2":
        d, layers, wide = (
            shape[n] for n in ("hidden_size", "num_hidden_layers", "intermediate_size")
        )
        kv = d * shape["num_key_value_heads"] // shape["num_attention_heads"]
        weights = layers * (2 * d * d + 2 * d * kv + 3 * d * wide)
    else:
        d, layers = shape["n_embd"], shape["n_layer"]
        weights = layers * 12 * d * d
    total = 0
    for n, m in zip(lengths, outputs, strict=True):
        steps = n + m - 1
        total += 2 * weights * steps + 2 * shape["vocab_size"] * d * m
        total += layers * 2 * d * steps * steps
    return float(total)


def _t5_operations(shape: dict[str, Any], lengths: list[int], outputs: list[int]) -> float:
    d, wide, heads = shape["d_model"], shape["d_ff"], shape["num_heads"] * shape["d_kv"]
    gated = 3 if shape.get("is_gated_act") else 2
    inner = 4 * d * heads + gated * d * wide
    total = 0
    for n, m in zip(lengths, outputs, strict=True):
        total += shape["num_layers"] * (2 * inner * n + 4 * heads * n * n)
        cross = 2 * d * heads  # queries and outputs of each token; keys and values once a row
        decoder = 2 * (inner + cross) * m + 2 * cross * n + heads * (2 * m * m + 4 * m * n)
        total += shape["num_decoder_layers"] * decoder + 2 * d * shape["vocab_size"] * m
    return float(total)
