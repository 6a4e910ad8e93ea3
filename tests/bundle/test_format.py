"""A bundle's description: what it records of its graphs, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.fakes import make_bundle

from engine.bundle import format as bundle_format
from engine.errors import BundleError


def rewritten(tmp_path: Path, **changes: Any) -> Path:
    """A bundle whose description has been changed."""
    folder = make_bundle(tmp_path / "bundle")
    file = folder / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    description = bundle_format.load(folder).description
    assert description.format == 4
    assert [graph.role for graph in description.graphs] == ["model"]
    assert description.to_json() == (folder / "bundle.json").read_text()


def test_another_format_is_refused_with_the_line_to_run(tmp_path: Path) -> None:
    source = {"model": "a model/of mine", "revision": "", "requested_revision": ""}
    folder = rewritten(tmp_path, format=2, source=source)
    with pytest.raises(BundleError, match="bundle format 2; this engine reads 3 and 4") as refused:
        bundle_format.load(folder)
    command = f"engine export 'a model/of mine' --task feature-extraction -o {folder}"
    assert refused.value.hint == f"remove the folder, then: {command}"
    source = {**source, "model": "hub/model", "revision": "0123"}
    folder = rewritten(tmp_path / "other", format=2, source=source, recipe="int8")
    with pytest.raises(BundleError) as refused:
        bundle_format.load(folder)
    wanted = f"hub/model --task feature-extraction --revision 0123 --recipe int8 -o {folder}"
    assert refused.value.hint.endswith(wanted)
    folder = rewritten(tmp_path / "bare", format=1, source=None)
    with pytest.raises(BundleError) as refused:
        bundle_format.load(folder)
    assert refused.value.hint.endswith(f"engine export MODEL --task TASK -o {folder}")


@pytest.mark.parametrize(
    "graphs",
    [
        None,
        [{"file": "model.onnx"}],
        [{"file": "model.onnx", "role": "nonsense"}],
        [{"file": "other.onnx", "role": "model"}],
    ],
)
def test_damaged_records_of_graphs_are_refused(tmp_path: Path, graphs: Any) -> None:
    with pytest.raises(BundleError, match="the description is damaged"):
        bundle_format.load(rewritten(tmp_path, graphs=graphs))
