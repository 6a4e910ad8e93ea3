"""feature-extraction against the transformers pipeline, same rows, same run.

    python benchmarks/encode.py CHECKPOINT BUNDLE TEXT.parquet [--rounds 5] [--save]

A is `engine run` from a Parquet file to an Arrow file, loading the bundle included. B is
`pipeline("feature-extraction", batch_size=32)` over the same texts in file order, loaded beforehand
and returning tensors, which is faster than lists. They alternate in one process, A B A B; medians
and the ratio of each round are reported. The pipeline's token states are pooled and normalized as
the bundle does it, untimed, and compared with the bundle's embeddings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import save

import engine
from engine.bundle import format as bundle_format


def run_engine(model: Path, corpus: Path, out: Path) -> tuple[float, np.ndarray[Any, Any]]:
    """Seconds and embeddings (rows, d) of one run."""
    start = time.perf_counter()
    report = engine.run(model, corpus, out, workers=0)
    seconds = time.perf_counter() - start
    with pa.OSFile(str(out / report.files[0])) as stream:
        column = pa.ipc.open_file(stream).read_all()["embedding"].combine_chunks()
    return seconds, column.flatten().to_numpy().reshape(len(column), -1)


def run_pipeline(pipe: Any, texts: list[str], length: int) -> tuple[float, list[Any]]:
    """Seconds and the token states of each row, padding included."""
    start = time.perf_counter()
    cut = {"truncation": True, "max_length": length}
    states = pipe(texts, batch_size=32, return_tensors=True, tokenize_kwargs=cut)
    return time.perf_counter() - start, states


def pool(pipe: Any, texts: list[str], states: list[Any], length: int) -> np.ndarray[Any, Any]:
    """Mean of each row's real tokens, scaled to length 1."""
    lengths = [
        len(ids) for ids in pipe.tokenizer(texts, truncation=True, max_length=length).input_ids
    ]
    rows = [s.numpy()[0, :n].mean(axis=0) for s, n in zip(states, lengths, strict=True)]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def compare(checkpoint: Path, model: Path, corpus: Path, rounds: int) -> dict[str, Any]:
    from transformers import pipeline

    texts = pq.read_table(corpus, columns=["text"])["text"].to_pylist()
    length = bundle_format.load(model).description.model_config.max_length
    pipe = pipeline("feature-extraction", model=str(checkpoint), framework="pt", device="cpu")
    run_pipeline(pipe, texts[:64], length)
    seconds: dict[str, list[float]] = {"engine": [], "transformers": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            ours, embeddings = run_engine(model, corpus, Path(folder) / str(i))
            theirs, states = run_pipeline(pipe, texts, length)
            seconds["engine"].append(round(ours, 3))
            seconds["transformers"].append(round(theirs, 3))
            print(f"round {i + 1}: engine {ours:.2f} s, transformers {theirs:.2f} s")
    ratios = [b / a for a, b in zip(seconds["engine"], seconds["transformers"], strict=True)]
    difference = float(np.abs(embeddings - pool(pipe, texts, states, length)).max())
    return {
        "rows": len(texts),
        "seconds": seconds,
        "rows_per_second": {
            n: round(len(texts) / statistics.median(s), 1) for n, s in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("corpus", type=Path, help="one Parquet file with a column called text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/encode.json")
    arguments = parser.parse_args()
    result = compare(arguments.checkpoint, arguments.bundle, arguments.corpus, arguments.rounds)
    print(f"rows/s {result['rows_per_second']}, ratio {result['ratio']} ({result['ratios']})")
    print(f"largest difference {result['largest_difference']:.1e}")
    if arguments.save:
        print(save("encode", result))


if __name__ == "__main__":
    main()
