"""The limits of this machine: matrix products, memory and tokenizing, each on its own.

    python benchmarks/ceiling.py [--threads 2] [--tokenizer tokenizer.json]

Products run through ONNX Runtime as the engine's own do: one MatMul or MatMulInteger with a
constant right side. An int8 product only counts where every sum is exact: without an integer dot
product in the CPU, u8×s8 saturates at 16 bits; with weights of 7 bits it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from texts import Lengths, cut, words

import engine.demo
from engine.core import hardware
from engine.demo.numerals import spanish
from engine.runtime.device import runtime

# (m, k, n) of an (m, k) by (k, n) product: a square one, and MiniLM's feed-forward layer.
SHAPES = ((1024, 1024, 1024), (2048, 384, 1536))
READ_BYTES = 512 << 20
TEXTS = 1_000
_LEAST_RUNS = 5
# Smallest and largest weight, and their type.
_INT8 = {"u8×s8": (-128, 127, np.int8), "u8×s7": (-63, 63, np.int8), "u8×u8": (0, 255, np.uint8)}


def measure(
    threads: int,
    *,
    tokenizer: Path | None = None,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    read_bytes: int = READ_BYTES,
    texts: int = TEXTS,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """The machine's limits with `threads` threads.

    Args:
        threads: Cores to use.
        tokenizer: A tokenizer.json to time on made-up words; without it, the embedded model's own
            on the numerals it was made for.
        shapes: (m, k, n) of the products; the fastest counts.
        read_bytes: How much memory is read in one go; far more than the caches hold.
        texts: How many are tokenized in one call.
        seconds: How long each thing is measured, at least five times over.

    Returns:
        `fp32_gflops`; `int8_gops` of the fastest exact kind, `int8_kind` (empty where none is
        exact) and `int8`, each kind's `gops` and whether it is `exact`; `read_gb_per_second`;
        `tokenizer_tokens_per_second` and `tokenizer`; `threads`.

    Raises:
        MissingDependency: onnxruntime is not installed.
        ImportError: onnx is not installed.
    """
    int8 = {kind: _int8(*weights, shapes, threads, seconds) for kind, weights in _INT8.items()}
    exact = {kind: product["gops"] for kind, product in int8.items() if product["exact"]}
    best = max(exact, key=lambda kind: exact[kind], default="")
    return {
        "threads": threads,
        "fp32_gflops": round(_fp32(shapes, threads, seconds), 1),
        "int8_gops": exact.get(best, 0.0),
        "int8_kind": best,
        "int8": int8,
        "read_gb_per_second": round(_read(read_bytes, threads, seconds), 1),
        "tokenizer_tokens_per_second": round(_tokenize(tokenizer, texts, threads, seconds)),
        "tokenizer": tokenizer.parent.name if tokenizer else "demo",
    }


def _rate(call: Callable[[], Any], work: float, seconds: float) -> float:
    """Work a second: the median of as many calls as take `seconds`, after two of warming up."""
    call()
    call()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return work / statistics.median(times)


def _fp32(shapes: Sequence[tuple[int, int, int]], threads: int, seconds: float) -> float:
    """GFLOP/s of the best shape."""
    dice = np.random.default_rng(0)
    rates = []
    for m, k, n in shapes:
        left = dice.standard_normal((m, k), np.float32)
        right = dice.standard_normal((k, n), np.float32)
        call, _ = _product("MatMul", left, right, np.float32, threads)
        rates.append(_rate(call, 2e-9 * m * k * n, seconds))
    return max(rates)


def _int8(
    least: int,
    largest: int,
    kind: type,
    shapes: Sequence[tuple[int, int, int]],
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """`gops` of the best shape, and whether all its products were exact."""
    dice = np.random.default_rng(0)
    rates, exact = [], True
    for m, k, n in shapes:
        left = dice.integers(0, 255, (m, k), np.uint8, endpoint=True)
        right = dice.integers(least, largest, (k, n), kind, endpoint=True)
        call, out = _product("MatMulInteger", left, right, np.int32, threads)
        rates.append(_rate(call, 2e-9 * m * k * n, seconds))
        # Doubles hold these sums exactly; a few rows are enough, since nearly all would saturate.
        rows = left[:16].astype(np.float64) @ right.astype(np.float64)
        exact = exact and bool((out.numpy()[:16] == rows).all())
    return {"gops": round(max(rates), 1), "exact": exact}


def _product(
    operator: str, left: NDArray[Any], right: NDArray[Any], out: type, threads: int
) -> tuple[Callable[[], Any], Any]:
    """A call that multiplies, without copying in or out, and the OrtValue that it fills."""
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        _graph(operator, left, right, out), options, providers=["CPUExecutionProvider"]
    )
    filled = ort.OrtValue.ortvalue_from_numpy(np.empty((len(left), right.shape[1]), out))
    binding = session.io_binding()
    binding.bind_ortvalue_input("left", ort.OrtValue.ortvalue_from_numpy(left))
    binding.bind_ortvalue_output("product", filled)
    return lambda: session.run_with_iobinding(binding), filled


def _graph(operator: str, left: NDArray[Any], right: NDArray[Any], out: type) -> bytes:
    from onnx import helper, numpy_helper

    def value(name: str, kind: np.dtype[Any], shape: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)

    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [value("left", left.dtype, left.shape)],
        [value("product", np.dtype(out), (len(left), right.shape[1]))],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def _read(size: int, threads: int, seconds: float) -> float:
    """GB/s at which NumPy finds the largest of all values: each byte is read once."""
    parts = np.array_split(np.ones(size // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return _rate(lambda: list(pool.map(np.max, parts)), size / 1e9, seconds)


def _tokenize(file: Path | None, count: int, threads: int, seconds: float) -> float:
    """Tokens a second of encode_batch_fast, without padding and truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file or engine.demo.BUNDLE / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if file:
        texts = cut(words([]), Lengths(28, 0.8, 2, 180).draw(count, 0))
    else:
        texts = [spanish(7_919 * n % 1_000_000) for n in range(count)]
    with _rayon(threads):
        tokens = sum(len(row) for row in tokenizer.encode_batch_fast(texts))
        return _rate(lambda: tokenizer.encode_batch_fast(texts), tokens, seconds)


@contextmanager
def _rayon(threads: int) -> Iterator[None]:
    """Set how many threads the tokenizers library uses; it starts them with its first batch."""
    name = "RAYON_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=hardware.cores())
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to time")
    arguments = parser.parse_args()
    if arguments.tokenizer and not arguments.tokenizer.is_file():
        parser.error(f"no file {arguments.tokenizer}")
    limits = measure(arguments.threads, tokenizer=arguments.tokenizer)
    print(json.dumps(limits, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
