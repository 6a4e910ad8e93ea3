"""Export a checkpoint, quantize its bundle to int8, and see what that costs and gains.

    python examples/quantize.py OUT

This needs the extra `export`. The checkpoint is the embedded model's; put a hub id or a folder of
your own in its place. The int8 bundle is compared with the fp32 one on a sample before it is
written: take rows of your own for that, and `force=True` to write a bundle that exceeds the limits.
"""

import json
import sys
from pathlib import Path

import engine
from engine.demo import CHECKPOINT
from engine.demo.numerals import spanish
from engine.export import export, quantize


def size(folder: Path) -> float:
    """MB of a bundle."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    export(str(CHECKPOINT), folder / "fp32", task="translation_es_to_pt")

    sample = folder / "sample.jsonl"
    rows = [json.dumps({"text": spanish(7919 * n % 1_000_000)}) for n in range(64)]
    sample.write_text("\n".join(rows), encoding="utf-8")
    quantize(folder / "fp32", folder / "int8", recipe="int8", sample=sample, text=("text",))

    texts = ["cuarenta y dos", "mil novecientos ochenta y cuatro"]
    for recipe in ("fp32", "int8"):
        bundle = engine.Bundle.load(folder / recipe)
        answers = bundle(texts)["translation_text"].to_pylist()
        print(f"{recipe}: {size(folder / recipe):.1f} MB, {answers}")


if __name__ == "__main__":
    main()
