"""Checkpoints and bundles that several tests need; each is made once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tokenizers beside the checkout; skips where there are none."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of trained checkpoints, from ENGINE_TEST_MODELS or built from two wheels."""
    pytest.importorskip("torch")
    kept = os.environ.get("ENGINE_TEST_MODELS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("models")
    build = [sys.executable, str(shared / "models/build.py"), str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"shared/models/build.py failed: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small random checkpoints: t5, embedder, classifier."""
    pytest.importorskip("optimum.exporters.onnx")
    from support import checkpoints

    folder = tmp_path_factory.mktemp("tiny")
    checkpoints.t5(folder / "t5")
    checkpoints.embedder(folder / "embedder")
    checkpoints.classifier(folder / "classifier")
    return folder


@pytest.fixture(scope="session")
def tiny_bundles(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same exported: t5, embedder, classifier, and t5-int8."""
    from engine.export import export

    folder = tmp_path_factory.mktemp("bundles")
    export(str(tiny / "t5"), folder / "t5", task="translation_en_to_de")
    export(str(tiny / "t5"), folder / "t5-int8", task="translation", recipe="int8")
    export(str(tiny / "embedder"), folder / "embedder", task=None)
    export(str(tiny / "classifier"), folder / "classifier", task="sentiment-analysis")
    return folder
