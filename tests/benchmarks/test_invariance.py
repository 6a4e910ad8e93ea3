"""A row's answer is the same to the bit in all surroundings, by all of OpenBLAS's kernels."""

from __future__ import annotations

import ast
from pathlib import Path

import invariance
import pytest
from support import bundles, checkpoints

import engine
from engine.core import hardware
from engine.demo import BUNDLE

ENGINE = Path(engine.__file__).parent
# What a run passes through between reading and writing.
RUN_PATH = ("answering", "bundle", "generation", "runtime", "tasks")
PRODUCTS = {"dot", "einsum", "inner", "matmul", "tensordot", "vdot", "vecdot", "matvec", "vecmat"}


WIDE = "SkylakeX" if "avx512f" in hardware.cpu()[1] else "Haswell"


@pytest.mark.skipif("avx2" not in hardware.cpu()[1], reason="only promised with AVX2")
@pytest.mark.parametrize("name", ["demo", "embedder-int8"])
def test_what_stands_beside_a_row_changes_no_bit_of_its_answer(name: str) -> None:
    bundle = BUNDLE
    if name != "demo":
        pytest.importorskip("optimum.exporters.onnx")
        embedder = bundles.checkpoint_of(checkpoints.embedder)
        bundle = bundles.bundle_of(embedder, None, "int8", force=True)
    result = invariance.measure(bundle, [("Nehalem", 1, 1), (WIDE, 2, 1)][name == "demo" :], 5)
    assert result["differ"] == {}
    assert result["compared"] > 500


def test_numpy_multiplies_no_matrices_in_a_run() -> None:
    """OpenBLAS's kernels sum in an order that depends on the shape, and so on the other rows."""
    files = [file for room in RUN_PATH for file in sorted((ENGINE / room).rglob("*.py"))]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            place = f"{file}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.MatMult), place
            assert not (isinstance(node, ast.Attribute) and node.attr in PRODUCTS), place
