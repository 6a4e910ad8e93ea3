"""Checkpoints and bundles that several tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from support import bundles, checkpoints
from support.bundles import export_once

SHARED = Path(__file__).resolve().parents[2] / "shared"


# A test that is slow once, beside others, has not failed.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

# What an export needs. The tests that need one of them skip where it is not installed.
EXPORT_PACKAGES = ("torch", "transformers", "optimum", "onnx")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="skip every test that needs torch or an export"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        # As if they were not installed.
        sys.modules.update(dict.fromkeys(EXPORT_PACKAGES))  # type: ignore[arg-type]  # None stops an import
    if not hasattr(config, "workerinput"):
        bundles.clear_unused()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tokenizers beside the checkout; skips where there are none."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def trained(shared: Path) -> Path:
    """Folder of trained checkpoints, from ENGINE_TEST_MODELS or built from two wheels."""
    pytest.importorskip("torch")
    models = shared / "models"
    if folder := os.environ.get("ENGINE_TEST_MODELS"):
        return _built(models, Path(folder))
    return bundles.entry(f"trained-{bundles.content(models)}", lambda new: _built(models, new))


def _built(models: Path, folder: Path) -> Path:
    command = [sys.executable, str(models / "build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"shared/models/build.py failed: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small random checkpoints: t5, embedder, classifier."""
    pytest.importorskip("optimum.exporters.onnx")
    folder = tmp_path_factory.mktemp("tiny")
    for build in (checkpoints.t5, checkpoints.embedder, checkpoints.classifier):
        shutil.copytree(bundles.checkpoint_of(build), folder / build.__name__)
    return folder


@pytest.fixture(scope="session")
def tiny_bundles(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same exported: t5, embedder, classifier, and t5-int8."""
    folder = tmp_path_factory.mktemp("bundles")
    export_once(tiny / "t5", folder / "t5", task="translation_en_to_de")
    export_once(tiny / "t5", folder / "t5-int8", task="translation", recipe="int8")
    export_once(tiny / "embedder", folder / "embedder", task=None)
    export_once(tiny / "classifier", folder / "classifier", task="sentiment-analysis")
    return folder
