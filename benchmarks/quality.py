"""How good a bundle's answers are on a labelled corpus, and whether the checkpoint's are as good.

    python benchmarks/quality.py BUNDLE CORPUS --text sentence --truth label [--checkpoint FOLDER]
    python benchmarks/quality.py INT8 CORPUS --text sentence --truth label --against FP32

The bundle's task decides what is measured: accuracy for text-classification (texts or pairs),
token F1 without O for token-classification (a word's label is its first token's), Spearman's
correlation of the cosine for feature-extraction over pairs, BLEU where text is generated (needs
sacrebleu). CORPUS is Parquet, JSONL, CSV or TSV (with a header, or --columns a,b,score), plain
lines (.gz; --columns text,truth and a second file behind a comma), or CoNLL (a word and its label a
line; columns words and labels).

With --checkpoint the PyTorch checkpoint answers the same rows; the exit code is 1 where the two
figures differ in the third decimal. With --against the fp32 bundle answers them, and both bundles'
answers are compared: cosines of embeddings; for generated text, how often the top token is the same
when both are teacher-forced along fp32's answers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from machine import save

import engine
from engine.export.acceptance import measures
from engine.export.acceptance.gate import trace_steps
from engine.generation import StepTrace


@dataclass(frozen=True)
class Measure:
    """How a task is measured.

    Attributes:
        name: The figure's.
        answers, torch_answers: (bundle or checkpoint, input columns) -> answers, one a row.
        figure: (answers, truths, label names) -> the figure.
        compare: (bundle, fp32 bundle, input columns) -> figures of their agreement, by name.
    """

    name: str
    answers: Callable[[engine.Bundle, list[list[Any]]], list[Any]]
    torch_answers: Callable[[Path, list[list[Any]]], list[Any]]
    figure: Callable[[list[Any], list[Any], Sequence[str]], float]
    compare: Callable[[engine.Bundle, engine.Bundle, list[list[Any]]], dict[str, float]]


def read(path: Path, columns: list[str]) -> pa.Table:
    """A corpus as a table, by its ending."""
    if path.suffix == ".gz":
        return pa.table(dict(zip(columns, map(_lines, str(path).split(",")), strict=True)))
    if path.suffix in (".csv", ".tsv"):
        return pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=columns or None),
            parse_options=pa.csv.ParseOptions(
                delimiter="\t" if path.suffix == ".tsv" else ",",
                quote_char=False if path.suffix == ".tsv" else '"',
                newlines_in_values=path.suffix == ".csv",
            ),
        )
    readers = {".parquet": pa.parquet.read_table, ".jsonl": pa.json.read_json, ".conll": _conll}
    return readers[path.suffix](path)


def _lines(path: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [line.strip() for line in stream]


def _conll(path: Path) -> pa.Table:
    rows: list[list[tuple[str, str]]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            word, *_, label = line.split("\t") if "\t" in line else line.split()
            rows[-1].append((word, label.strip()))
        elif rows[-1]:
            rows.append([])
    rows = [row for row in rows if row]
    words, labels = ([[pair[i] for pair in row] for row in rows] for i in (0, 1))
    return pa.table({"words": words, "labels": labels})


# text-classification


def classify(bundle: engine.Bundle, columns: list[list[Any]]) -> list[Any]:
    return list(bundle(_rows(columns), top_k=1)["label"].to_pylist())


def classify_torch(checkpoint: Path, columns: list[list[Any]]) -> list[Any]:
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = _torch(AutoModelForSequenceClassification, checkpoint)
    labels = []
    for cells in zip(*columns, strict=True):
        feeds = tokenizer(*cells, truncation=True, return_tensors="pt")
        labels.append(model.config.id2label[int(model(**feeds).logits.argmax())])
    return labels


def accuracy(answers: list[Any], truths: list[Any], labels: Sequence[str]) -> float:
    """Share of right answers; truths are names of labels, in any case, or their numbers."""
    named = [labels[int(t)] if str(t).isdigit() else str(t) for t in truths]
    right = (a.lower() == t.lower() for a, t in zip(answers, named, strict=True))
    return float(sum(right)) / len(truths)


# token-classification


def tag(bundle: engine.Bundle, columns: list[list[Any]]) -> list[Any]:
    """A label for each word: its first token's."""
    (rows,) = columns
    table = bundle(rows, aggregation_strategy="none", ignore_labels=())
    pairs = zip(rows, table["entities"].to_pylist(), strict=True)
    return [_word_labels(words, entities) for words, entities in pairs]


def _word_labels(words: list[str], entities: list[dict[str, Any]]) -> list[str]:
    """Offsets count in the words joined by one space."""
    starts = {e["start"]: e["entity"] for e in reversed(entities)}
    start, labels = 0, []
    for word in words:
        labels.append(starts.get(start, "O"))
        start += len(word) + 1
    return labels


def tag_torch(checkpoint: Path, columns: list[list[Any]]) -> list[Any]:
    from transformers import AutoModelForTokenClassification

    model, tokenizer = _torch(AutoModelForTokenClassification, checkpoint)
    tagged = []
    for words in columns[0]:
        feeds = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="pt")
        best = model(**feeds).logits[0].argmax(-1).tolist()
        first: dict[int, str] = {}
        for word, label in zip(feeds.word_ids(), best, strict=True):
            if word is not None:
                first.setdefault(word, model.config.id2label[label])
        tagged.append([first.get(i, "O") for i in range(len(words))])
    return tagged


def token_f1(answers: list[Any], truths: list[Any], labels: Sequence[str]) -> float:
    """Micro-averaged over all words, O apart."""
    pairs = [p for a, t in zip(answers, truths, strict=True) for p in zip(a, t, strict=True)]
    right = sum(bool(a == t != "O") for a, t in pairs)
    named = sum(bool(label != "O") for pair in pairs for label in pair)
    return 2 * right / max(1, named)


# feature-extraction


def similarities(bundle: engine.Bundle, columns: list[list[Any]]) -> list[Any]:
    """The cosine of each pair."""
    first, second = (
        np.stack(bundle(column)["embedding"].to_numpy(zero_copy_only=False)) for column in columns
    )
    return _cosine(first, second)


def similarities_torch(checkpoint: Path, columns: list[list[Any]]) -> list[Any]:
    from transformers import AutoModel

    model, tokenizer = _torch(AutoModel, checkpoint)

    def embed(text: str) -> Any:
        feeds = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        return model(**feeds).last_hidden_state[0].mean(dim=0).numpy()

    first, second = (np.stack([embed(text) for text in column]) for column in columns)
    return _cosine(first, second)


def _cosine(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> list[Any]:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return list((first * second).sum(axis=1) / lengths)


def spearman(answers: list[Any], truths: list[Any], labels: Sequence[str]) -> float:
    """Correlation of the ranks; equal values share their mean rank."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (answers, truths)]
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


# generated text

STEPS, ROWS_AT_ONCE = 64, 48


def generate(bundle: engine.Bundle, columns: list[list[Any]]) -> list[Any]:
    answers = bundle(columns[0], num_beams=1, do_sample=False, max_new_tokens=STEPS)
    return list(answers.column(0).to_pylist())


def generate_torch(checkpoint: Path, columns: list[list[Any]]) -> list[Any]:
    from transformers import AutoModelForSeq2SeqLM

    model, tokenizer = _torch(AutoModelForSeq2SeqLM, checkpoint)
    texts = []
    for text in columns[0]:
        feeds = tokenizer(text, truncation=True, return_tensors="pt")
        ids = model.generate(**feeds, num_beams=1, do_sample=False, max_new_tokens=STEPS)
        texts.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    return texts


def bleu(answers: list[Any], truths: list[Any], labels: Sequence[str]) -> float:
    import sacrebleu

    return float(sacrebleu.corpus_bleu(answers, [truths]).score)


# how far two bundles' answers agree


def compare_nothing(
    bundle: engine.Bundle, plain: engine.Bundle, columns: list[list[Any]]
) -> dict[str, float]:
    """Only whether each answer is the same, which is counted for every task."""
    return {}


def compare_embeddings(
    bundle: engine.Bundle, plain: engine.Bundle, columns: list[list[Any]]
) -> dict[str, float]:
    texts = sorted({text for column in columns for text in column})
    return measures.compare_answers("feature-extraction", plain(texts), bundle(texts))


def compare_tokens(
    bundle: engine.Bundle, plain: engine.Bundle, columns: list[list[Any]]
) -> dict[str, float]:
    """Both teacher-forced along fp32's greedy tokens, some rows at a time."""
    traces = []
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        rows = columns[0][start : start + ROWS_AT_ONCE]
        own = trace_steps(plain, rows, steps=STEPS)
        traces.append((own, trace_steps(bundle, rows, steps=STEPS, along=own)))
    return measures.compare_steps(*map(_joined, zip(*traces, strict=True)))


def _joined(traces: Sequence[StepTrace]) -> StepTrace:
    return StepTrace(
        np.concatenate([trace.tokens for trace in traces]),
        np.concatenate([trace.lengths for trace in traces]),
        np.concatenate([trace.margins for trace in traces]),
    )


MEASURES: Mapping[str, Measure] = {
    "text-classification": Measure("accuracy", classify, classify_torch, accuracy, compare_nothing),
    "token-classification": Measure("token F1", tag, tag_torch, token_f1, compare_nothing),
    "feature-extraction": Measure(
        "Spearman", similarities, similarities_torch, spearman, compare_embeddings
    ),
    "translation": Measure("BLEU", generate, generate_torch, bleu, compare_tokens),
    "text2text-generation": Measure("BLEU", generate, generate_torch, bleu, compare_tokens),
}


def _rows(columns: list[list[Any]]) -> list[Any]:
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _torch(kind: Any, checkpoint: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer

    torch.set_grad_enabled(False)
    model = kind.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures, and how many rows have another answer."""
    bundle = engine.Bundle.load(options.bundle)
    task = bundle.folder.description.task
    if task not in MEASURES:
        raise SystemExit(f"{task} is not measured here; {', '.join(MEASURES)} are")
    how, table = MEASURES[task], _corpus(options)
    columns = [table[name].to_pylist() for name in options.text.split(",")]
    truths, labels = table[options.truth].to_pylist(), bundle.model_config.labels
    answers = how.answers(bundle, columns)
    result = {
        "bundle": options.bundle.name, "corpus": options.corpus.name, "rows": len(truths),
        "measure": how.name, "engine": how.figure(answers, truths, labels),
    }  # fmt: skip
    if options.checkpoint:
        others = how.torch_answers(options.checkpoint, columns)
        result["torch"] = how.figure(others, truths, labels)
        result["rows_that_differ"] = _differing(answers, others)
    if options.against:
        plain = engine.Bundle.load(options.against)
        others = how.answers(plain, columns)
        result["recipe"] = bundle.folder.description.recipe
        result["fp32"] = how.figure(others, truths, labels)
        result["difference"] = result["engine"] - result["fp32"]
        result["rows_that_differ"] = _differing(answers, others)
        result |= how.compare(bundle, plain, columns)
    return result


def _corpus(options: argparse.Namespace) -> pa.Table:
    table = read(options.corpus, [c for c in options.columns.split(",") if c])
    if options.where:
        name, _, value = options.where.partition("=")
        table = table.filter(pa.compute.equal(table[name].cast(pa.string()), value))
    return table.slice(0, options.limit) if options.limit else table


def _differing(answers: list[Any], others: list[Any]) -> int:
    return sum(not _same(a, b) for a, b in zip(answers, others, strict=True))


def _same(a: Any, b: Any) -> bool:
    return abs(a - b) < 1e-4 if isinstance(a, (float, np.floating)) else bool(a == b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--text", required=True, help="input columns, a,b for pairs")
    parser.add_argument("--truth", required=True, help="the column with the right answers")
    parser.add_argument("--columns", default="", help="names for a file without a header")
    parser.add_argument("--checkpoint", type=Path, help="the PyTorch checkpoint to compare with")
    parser.add_argument("--against", type=Path, help="the fp32 bundle to compare with")
    parser.add_argument("--where", default="", help="only rows with COLUMN=VALUE")
    parser.add_argument("--limit", type=int, default=0, help="first rows only")
    parser.add_argument("--save", default="", help="write results/quality-NAME.json")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=2))
    if options.save:
        save(f"quality-{options.save}", result)
    if "torch" in result and round(result["engine"], 3) != round(result["torch"], 3):
        sys.exit(1)


if __name__ == "__main__":
    main()
