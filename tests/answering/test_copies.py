"""A bundle is pickled and copied as its path, its digest and how it was loaded."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import engine
from engine import pipeline
from engine.errors import BundleError, SettingsError

DEMO = Path(engine.__file__).parent / "demo" / "bundle"
TEXTS = ["dos mil tres", "cinco"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO, tmp_path / "bundle")


def test_copies_answer_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    bundle = engine.Bundle.load("bundle", threads=1, device="cpu")
    wanted = bundle(TEXTS)
    pickled = pickle.dumps(bundle)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    for other in (pickle.loads(pickled), copy.deepcopy(bundle), copy.copy(bundle)):
        assert other is not bundle
        assert other(TEXTS).equals(wanted)
        assert pickle.dumps(other) == pickled


def test_batches_side_by_side_share_the_threads(folder: Path) -> None:
    wanted = engine.Bundle.load(folder, threads=1)(TEXTS * 9)
    bundle = engine.Bundle.load(folder, threads=4, workers=2)
    for other in (bundle, copy.deepcopy(bundle)):
        assert other.workers == 2
        assert other(TEXTS * 9).equals(wanted)
        assert other.answer(pa.table({"text": TEXTS * 9})).table.equals(wanted)
    with pytest.raises(SettingsError, match="workers is -1"):
        engine.Bundle.load(folder, workers=-1)


@pytest.mark.parametrize(
    ("cores", "settings", "workers", "threads"),
    [
        (1, {}, 1, 1),
        (2, {}, 2, 1),
        (8, {}, 4, 2),
        (8, {"workers": 1}, 1, 8),
        (8, {"threads": 4}, 2, 4),
        (8, {"threads": 6, "workers": 3}, 3, 2),
    ],
)
def test_the_cores_are_divided_as_in_a_run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    settings: dict[str, int],
    workers: int,
    threads: int,
) -> None:
    monkeypatch.setattr(pipeline, "cores", lambda: cores)
    bundle = engine.Bundle.load(folder, device="cpu", **settings)
    session = bundle.backend.graph("step").session  # type: ignore[attr-defined]  # of this backend
    assert (bundle.workers, session.get_session_options().intra_op_num_threads) == (
        workers,
        threads,
    )


def test_another_process_loads_it(folder: Path) -> None:
    bundle = engine.Bundle.load(folder)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(['cinco']).to_pylist())"
    run = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(bundle), capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == str(bundle(["cinco"]).to_pylist())


def test_another_bundle_at_the_path_is_refused(folder: Path) -> None:
    pickled = pickle.dumps(engine.Bundle.load(folder, check=False))
    description = folder / "bundle.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content, indent=1))
    with pytest.raises(BundleError, match="is another bundle than the one that was pickled") as e:
        pickle.loads(pickled)
    assert str(folder) in e.value.message
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="no such bundle here"):
        pickle.loads(pickled)
    shutil.copytree(DEMO, folder)  # as the hint says
    assert pickle.loads(pickled)(TEXTS).num_rows == 2


def test_changed_bytes_at_the_path_are_refused(folder: Path) -> None:
    pickled = pickle.dumps(engine.Bundle.load(folder))
    weights = folder / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    os.chmod(weights, 0o644)
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin: its bytes are not the ones"):
        pickle.loads(pickled)
