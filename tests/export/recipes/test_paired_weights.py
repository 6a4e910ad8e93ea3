"""Weights in 8 bits: no two neighbours exceed 16 bits, so that sums are exact on every CPU."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("onnx")

from engine.export.graphs import storage
from engine.export.recipes.paired_weights import PAIR, round_weight

# (recipe, family, task): with scales for each token and for all, encoders and steps.
BUNDLES = (
    ("int8", "bert", "feature-extraction"),
    ("int8-static", "bert", "feature-extraction"),
    ("int8", "t5", "translation"),
    ("int8", "marian", "translation"),
    ("int8", "gpt2", "text-generation"),
    ("int8-tensor", "marian", "translation"),
)
# Without VNNI: AVX2 and SSE4.1.
OTHER_CPUS = ("Haswell", "Nehalem")
QEMU = shutil.which("qemu-x86_64")


def largest_pair(integers: NDArray[np.int8]) -> int:
    size = np.abs(integers.astype(int))
    size = np.pad(size, ((0, len(size) % 2), (0, 0)))
    return int((size[::2] + size[1::2]).max(initial=0))


shapes = st.tuples(st.integers(0, 9), st.integers(0, 5))
values = st.floats(-(2.0**100), 2.0**100, width=32)


@given(arrays.arrays(np.float32, shapes, elements=values))
def test_pairs_fit_and_each_weight_is_within_half_a_step(weight: NDArray[np.float32]) -> None:
    integers, scales = round_weight(weight)
    assert (integers.dtype, integers.shape, scales.shape) == (
        np.int8,
        weight.shape,
        weight.shape[1:],
    )
    assert integers.flags.c_contiguous
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert largest_pair(integers) <= PAIR
    assert 255 * PAIR < 2**15
    far = np.abs(integers * scales.astype(float) - weight)
    assert (far <= scales * 0.5001).all()


def test_usual_weights_are_rounded_finer_than_in_seven_bits() -> None:
    weight = np.random.default_rng(0).normal(size=(512, 256)).astype(np.float32)
    integers, scales = round_weight(weight)
    rough = np.abs(weight).max(axis=0) / 63
    assert (scales <= rough).all()
    assert 1.4 < np.mean(rough / scales) < 2
    assert np.abs(integers.astype(int)).max() > 63


@pytest.mark.parametrize(("recipe", "family", "task"), BUNDLES)
def test_no_pair_of_a_bundle_is_too_large(recipe: str, family: str, task: str) -> None:
    checkpoint = checkpoint_of(getattr(checkpoints, family))
    folder = bundle_of(checkpoint, task, recipe, force=family == "marian")
    files = sorted(path.name for path in folder.glob("*.onnx"))
    from onnx import numpy_helper

    pairs = []
    for model in storage.load(folder, tuple(files)).values():
        weights = {w.name: w for w in model.graph.initializer}
        products = [n for n in model.graph.node if n.op_type == "MatMulIntegerToFloat"]
        pairs += [largest_pair(numpy_helper.to_array(weights[node.input[1]])) for node in products]
    assert len(pairs) >= 6
    assert PAIR - 2 <= max(pairs) <= PAIR


# Every sum of the largest pairs with the largest activations, against whole numbers.
SUMS = """
import sys
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper

PROVIDER = "CPUExecutionProvider"

def product(weight):
    constants = {"w": weight, "scales": np.ones(weight.shape[1], np.float32),
                 "one": np.float32(1), "zero": np.uint8(128), "none": np.int8(0)}
    node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "scales", "zero", "none"],
                            ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node], "sums", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["m", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", weight.shape[1]])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[PROVIDER])

random, wrong = np.random.default_rng(0), {"paired": 0, "full": 0}
for width in (2, 7, 32, 130, 384, 1026):
    for out in (1, 16, 33):
        first = random.integers(1, 128, (width // 2 + 1, out))
        paired = np.stack([first, 128 - first], 1).reshape(-1, out)[:width]
        for kind, size in (("paired", paired), ("full", np.full_like(paired, 127))):
            for sign in (1, -1, random.choice([-1, 1], size.shape)):
                weight = (size * sign).astype(np.int8)
                session = product(weight)
                for rows in (1, 2, 5, 33):
                    x = random.choice([0, 255], (rows, width), p=[0.2, 0.8]).astype(np.uint8)
                    sums = (x.astype(int) - 128) @ weight.astype(int)
                    got = session.run(None, {"x": x})[0]
                    wrong[kind] += not np.array_equal(got, sums.astype(np.float32))
print(wrong["paired"], wrong["full"])
"""


def sums(*emulator: str) -> tuple[int, int]:
    """How many products differ from whole numbers' with paired weights, and with any of 8 bits."""
    paths = os.pathsep.join(path for path in sys.path if path)
    run = subprocess.run(
        [*emulator, str(Path(sys.executable).resolve()), "-c", SUMS],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paired, full = run.stdout.split()[-2:]
    return int(paired), int(full)


def test_sums_of_the_largest_pairs_are_exact_on_this_cpu() -> None:
    assert sums()[0] == 0


@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 (package qemu-user)")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the interpreter is not of x86-64")
@pytest.mark.parametrize("cpu", OTHER_CPUS)
def test_sums_of_the_largest_pairs_are_exact_without_vnni(cpu: str) -> None:
    """With AVX2 any weights of 8 bits are not."""
    paired, full = sums(str(QEMU), "-cpu", cpu)
    assert paired == 0
    assert (full > 0) == (cpu == "Haswell")
