"""Embed a folder of Parquet or JSONL files, and load the embeddings as one NumPy array.

    python examples/embed_corpus.py MODEL CORPUS OUT

MODEL is a bundle, a checkpoint folder or a hub id, such as
`sentence-transformers/all-MiniLM-L6-v2`. The inputs need a column `text`; `id` is copied to the
output, where it says which row an embedding belongs to.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import engine


def embeddings(out: Path, files: tuple[str, ...]) -> tuple[list[object], NDArray[np.float32]]:
    """Ids and a float32 array (rows, dimensions) of a run's part files."""
    tables = [pa.ipc.open_file(pa.memory_map(str(out / file))).read_all() for file in files]
    table = pa.concat_tables(tables).combine_chunks()
    vectors = table["embedding"].combine_chunks()
    return table["id"].to_pylist(), vectors.flatten().to_numpy().reshape(len(vectors), -1)


def main() -> None:
    model, corpus, out = sys.argv[1:4]
    bundle = engine.bundle_for(model, task="feature-extraction")
    report = engine.run(bundle, corpus, out, text="text", keep="id")
    ids, vectors = embeddings(Path(out), report.files)
    print(
        f"{len(ids)} embeddings of {vectors.shape[1]} dimensions, {report.rows_per_second} rows/s"
    )
    # sentence-transformers models give vectors of length 1, so that their product is the cosine.
    nearest = np.argsort(vectors[1:] @ vectors[0])[::-1][:3] + 1
    print(f"nearest to {ids[0]}: {[ids[n] for n in nearest]}")


if __name__ == "__main__":
    main()
