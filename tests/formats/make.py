"""Save the suite's small checkpoints with other versions of the libraries, and keep their metadata.

    python tests/formats/make.py FOLDER             # makes the environments in FOLDER, then saves
    python tests/formats/make.py FOLDER --reuse     # takes those that are there

Each environment is a virtual environment of its own. What its libraries save goes into
FOLDER/saved; the JSON files of it, without vocabularies, into tests/formats/fixtures, which
`test_formats.py` reads. Needs the extra `export` here, and a package index for new environments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from formats.families import BUILDERS, EMBEDDERS  # noqa: E402

FIXTURES = HERE / "fixtures"
# Packages of each environment; the name is that of its folder. sentence-transformers 6 needs
# transformers 5, and 2 an older one.
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "t4st2": ("transformers==4.57.6", "sentence-transformers==2.7.0"),
    "t4st5": ("transformers==4.57.6", "sentence-transformers>=5,<6"),
    "t5st5": ("transformers==5.24.0", "sentence-transformers>=5.2,<6"),
    "t5st6": ("transformers==5.24.0", "sentence-transformers==6.2.0"),
}
_SHARED = ("torch==2.13.0", "sentencepiece", "protobuf")
# Vocabularies, which the suite builds itself.
_LEFT_OUT = ("tokenizer.json", "vocab.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reuse", action="store_true", help="make no environment that is missing")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    built = folder / "built"
    build(built)
    for name, packages in ENVIRONMENTS.items():
        python = folder / name / "bin/python"
        if not python.is_file() and not arguments.reuse:
            make_environment(folder / name, packages)
        if python.is_file():
            save(python, built, folder / "saved" / name)
            keep(folder / "saved" / name, FIXTURES / name)


def build(folder: Path) -> None:
    """The checkpoints as the version of transformers that is installed here saves them."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, builder in {**BUILDERS, **EMBEDDERS}.items():
        builder(folder / name)


def make_environment(folder: Path, packages: tuple[str, ...]) -> None:
    """A new virtual environment; one whose packages exclude one another is left out."""
    venv.create(folder, with_pip=True)
    command = [folder / "bin/python", "-m", "pip", "install", "-q", *_SHARED, *packages]
    if subprocess.run(command, check=False).returncode:
        shutil.rmtree(folder)
        sys.stderr.write(f"{folder.name}: cannot be installed: {' '.join(packages)}\n")


def save(python: Path, built: Path, out: Path) -> None:
    """Load the checkpoints with an environment's libraries, and save them with these."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [python, HERE / "save.py", built, out]
    subprocess.run(command, check=True, env={**environment, "HF_HUB_OFFLINE": "1"})


def keep(saved: Path, fixtures: Path) -> None:
    """One JSON file for each checkpoint: the content of its JSON files by their paths.

    Families are kept of one environment with transformers 5: the builders' own files are 4.57's.
    """
    shutil.rmtree(fixtures, ignore_errors=True)
    fixtures.mkdir(parents=True)
    names = {**BUILDERS, **EMBEDDERS} if fixtures.name == "t5st6" else EMBEDDERS
    for checkpoint in (saved / name for name in sorted(names)):
        text = json.dumps(metadata(checkpoint), sort_keys=True, ensure_ascii=False)
        (fixtures / f"{checkpoint.name}.json").write_text(f"{text}\n", encoding="utf-8")


def metadata(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's JSON files by their paths, vocabularies left out."""
    return {
        file.relative_to(checkpoint).as_posix(): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(checkpoint.rglob("*.json"))
        if file.name not in _LEFT_OUT
    }


if __name__ == "__main__":
    main()
