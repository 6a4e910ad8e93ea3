"""What is read of an ONNX file without its library."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import onnx_bytes as ox
from support import small_bundles as bundles

from engine.core.confined_process import RefusedError
from engine.demo import BUNDLE
from engine.runtime.graph_scan import check

EXTERNAL = {"location": "weights.bin"}
GOOD = ox.graph([bundles.LOOKUP], bundles.INPUTS, [bundles.STATES], [bundles.WEIGHTS])


def refusal(folder: Path, content: bytes) -> str:
    (folder / "g.onnx").write_bytes(content)
    try:
        check(folder / "g.onnx", {"weights.bin"})
    except RefusedError as error:
        return str(error)
    return ""


def weights(*entries: bytes) -> bytes:
    tensor = ox.field(1, 1) + b"".join(ox.field(13, entry) for entry in entries) + ox.field(14, 1)
    return ox.model(ox.graph([], weights=[tensor]))


def entry(*fields: tuple[int, str]) -> bytes:
    return b"".join(ox.field(number, text) for number, text in fields)


@pytest.mark.parametrize("file", sorted(BUNDLE.glob("*.onnx")), ids=lambda file: file.name)
def test_a_graph_of_the_engine_is_let_through(file: Path) -> None:
    check(file, {"weights.bin"})
    with pytest.raises(RefusedError, match=r"weights in 'weights\.bin'"):
        check(BUNDLE / "step.onnx", ())


def test_weights_are_found_wherever_a_tensor_may_be(tmp_path: Path) -> None:
    tensor = ox.tensor("t", [1], external={"location": "/etc/hostname"})
    constant = ox.node("Constant", [], ["c"], ox.attribute("value", tensor, 4))
    inner = ox.graph([constant])
    sparse = ox.field(1, tensor)
    function = ox.field(1, "f") + ox.field(10, "own") + ox.field(7, constant)
    for content in (
        ox.model(ox.graph([], weights=[tensor])),
        ox.model(ox.graph([constant])),
        ox.model(ox.graph([ox.node("If", ["c"], ["y"], ox.attribute("then_branch", inner, 5))])),
        ox.model(ox.graph([]) + ox.field(15, sparse)),
        ox.model(GOOD, rest=ox.field(25, function)),
    ):
        assert "has weights in '/etc/hostname'" in refusal(tmp_path, content)


def test_the_last_of_equal_fields_counts_as_in_the_library(tmp_path: Path) -> None:
    good, bad = (2, "weights.bin"), (2, "/etc/hostname")
    assert refusal(tmp_path, weights(entry((1, "location"), good))) == ""
    assert refusal(tmp_path, weights(entry((1, "location"), bad, good))) == ""
    assert "/etc/hostname" in refusal(tmp_path, weights(entry((1, "location"), good, bad)))
    assert "/etc/hostname" in refusal(tmp_path, weights(entry(bad, (1, "x"), (1, "location"))))
    two = (entry((1, "location"), good), entry((1, "location"), bad))
    assert "/etc/hostname" in refusal(tmp_path, weights(*two))


def test_a_tag_of_more_bits_than_a_reader_keeps_is_the_field_that_it_reads(tmp_path: Path) -> None:
    tag = ox.varint(7 << 3 | 2 | 1 << 32)
    graph = ox.graph([ox.node("Loop", [], [])])
    content = ox.field(1, 8) + tag + ox.varint(len(graph)) + graph
    assert "calls Loop" in refusal(tmp_path, content)


def test_a_loop_is_let_through_only_if_a_tensors_size_counts_it(tmp_path: Path) -> None:
    size = ox.node("Size", ["x"], ["count"])
    loop = ox.node("Loop", ["count", ""], ["y"])
    assert refusal(tmp_path, ox.model(ox.graph([size, loop]))) == ""
    branch = ox.attribute("then_branch", ox.graph([size, loop]), 5)
    function = ox.field(1, "Size") + ox.field(10, "own") + ox.field(7, ox.node("Abs", ["x"], ["y"]))
    long = "x" * 1000
    for content in (
        ox.model(ox.graph([loop])),
        ox.model(ox.graph([size, ox.node("Loop", ["", "count"], ["y"])])),
        ox.model(ox.graph([ox.node("Shape", ["x"], ["count"]), loop])),
        ox.model(ox.graph([ox.node("Size", ["x"], ["count"], domain="com.microsoft"), loop])),
        ox.model(ox.graph([ox.node("Size", ["count"], ["other"]), loop])),
        ox.model(ox.graph([ox.node("If", ["c"], ["y"], branch)])),
        ox.model(ox.graph([size, loop]), rest=ox.field(25, function)),
        ox.model(
            ox.graph([ox.node("Size", ["x"], [long]), ox.node("Loop", [f"{long}2", ""], ["y"])])
        ),
    ):
        assert "calls Loop" in refusal(tmp_path, content)


def test_a_second_graph_is_refused(tmp_path: Path) -> None:
    assert "no graph" in refusal(tmp_path, ox.model(GOOD) + ox.field(7, GOOD))


def test_functions_of_its_own_are_looked_into(tmp_path: Path) -> None:
    def function(operator: str) -> bytes:
        node = ox.node(operator, ["x"], ["y"])
        return ox.field(25, ox.field(1, "f") + ox.field(10, "own") + ox.field(7, node))

    call = ox.graph([ox.node("f", ["x"], ["y"], domain="own")])
    assert refusal(tmp_path, ox.model(call, rest=function("Abs"))) == ""
    assert "calls Scan" in refusal(tmp_path, ox.model(call, rest=function("Scan")))
    assert "of 'own'" in refusal(tmp_path, ox.model(call))


def test_any_cut_or_changed_byte_is_let_through_or_refused(tmp_path: Path) -> None:
    content = (BUNDLE / "pick.onnx").read_bytes()
    for place in range(len(content)):
        refusal(tmp_path, content[:place])
        refusal(tmp_path, content[:place] + bytes([content[place] ^ 0x81]) + content[place + 1 :])
