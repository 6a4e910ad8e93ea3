"""The defaults of transformers' pipelines: stand-ins with the files that the real ones have at
their revisions are found, planned, loaded and exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints, fake_hub
from support.bundles import checkpoint_of

pytest.importorskip("optimum.exporters.onnx")

from engine.export.checkpoint import task_inference

ENCODER = checkpoints.encoder
# Task -> builder of a stand-in, its arguments, and the files of the real one that differ from it:
# "vocab.txt" in place of a tokenizer.json, or pickled weights.
DEFAULTS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "feature-extraction": (ENCODER, ("distilbert", "fill-mask"), ""),
    "text-classification": (ENCODER, ("distilbert", "text-classification"), "vocab.txt"),
    "zero-shot-classification": (ENCODER, ("bart", "zero-shot-classification"), ""),
    "token-classification": (ENCODER, ("bert", "token-classification"), "vocab.txt"),
    "question-answering": (ENCODER, ("distilbert", "question-answering"), ""),
    "fill-mask": (ENCODER, ("roberta", "fill-mask"), ""),
    "summarization": (checkpoints.bart, (), "pytorch_model.bin"),
    "text2text-generation": (checkpoints.t5, (), ""),
    "translation_en_to_de": (checkpoints.t5, (), ""),
    "text-generation": (checkpoints.gpt2, (), ""),
}
PICKLED = "summarization"
_CASES = """
import json, sys
from pathlib import Path
from engine.errors import EngineError
from engine.export import export

for case in json.loads(sys.argv[1]):
    lines = []
    try:
        report = export(None, Path(case.pop("out")), progress=lines.append, **case)
        print(json.dumps({"lines": lines, "notes": report.notes}))
    except EngineError as error:
        print(json.dumps({"lines": lines, "error": str(error)}))
"""


def _stand_in(task: str, folder: Path) -> Path:
    build, arguments, layout = DEFAULTS[task]
    shutil.copytree(checkpoint_of(build, *arguments), folder)
    if layout == "pytorch_model.bin":
        checkpoints.to_pickle(folder)
    if layout == "vocab.txt":
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        lines = sorted(vocabulary, key=vocabulary.get)
        (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
        (folder / "tokenizer.json").unlink()
        (folder / "special_tokens_map.json").unlink()
        about = {"do_lower_case": True, "model_max_length": 64}
        checkpoints.write_json(folder / "tokenizer_config.json", about)
    # Files of other frameworks, which real ones have and nobody fetches.
    for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "README.md"):
        (folder / name).write_text("x")
    return folder


def test_all_defaults_are_exported_and_the_pickled_one_with_the_flag(tmp_path: Path) -> None:
    served: dict[str, fake_hub.Hub] = {}
    for task in DEFAULTS:
        repo, revision = task_inference.default_checkpoint(task)
        if repo not in served:
            folder = _stand_in(task, tmp_path / task)
            served[repo] = fake_hub.Hub(
                folder, repo, revision.ljust(40, "0"), branches=("main", revision)
            )
    cases = [{"task": task, "out": str(tmp_path / f"out-{task}")} for task in DEFAULTS]
    cases.append({**cases[list(DEFAULTS).index(PICKLED)], "allow_pickle": True})
    with fake_hub.serve(*served.values()) as endpoint:
        answers = _exported(cases, endpoint, tmp_path / "home")
    for task, answer in zip([*DEFAULTS, "allowed"], answers, strict=True):
        if task == PICKLED:
            assert "the only weights are pickled (pytorch_model.bin)" in answer["error"]
            assert (
                "--allow-pickle (torch's weights-only unpickler: no code runs)" in answer["error"]
            )
        else:
            assert "error" not in answer, task
            assert any("no model was named" in note for note in answer["notes"])
        assert any("no model was named" in line for line in answer["lines"])
    fetched = set().union(*(hub.fetched() for hub in served.values()))
    assert not fetched & {"tf_model.h5", "flax_model.msgpack", "rust_model.ot", "README.md"}


def _exported(cases: list[dict[str, Any]], endpoint: str, home: Path) -> list[dict[str, Any]]:
    """Run exports in a process of their own: huggingface_hub reads its settings at import."""
    root = Path(__file__).resolve().parents[3]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", _CASES, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**inherited, "PYTHONPATH": str(root), **settings},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
