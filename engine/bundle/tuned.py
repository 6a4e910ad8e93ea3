"""The settings that `engine tune` measured as fastest on a machine, in the bundle's folder.

    BUNDLE/tuned.json         on its CPU
    BUNDLE/tuned.cuda.json    on its GPU

Neither is one of the exported files: the bundle is the same without them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from engine.bundle import typed_json
from engine.core import hardware
from engine.core.config import RunConfig
from engine.errors import BundleError, OutputError

FILES = {"cpu": "tuned.json", "cuda": "tuned.cuda.json"}
_BOUNDS: typed_json.Bounds = {
    "batch_tokens": (0, 2**31 - 1),
    "workers": (0, 4096),
    "threads": (0, 4096),
    "cores": (0, 2**20),
    "speed": (0, 1e6),
}


@dataclass(frozen=True)
class Tuned:
    """Settings and the machine that they were measured on.

    Attributes:
        batch_tokens, workers, threads: As `config.RunConfig` has them.
        cpu, cores: The machine.
        gpu: Name of the GPU, "" for the CPU.
        sample: What was answered: files, or the engine's own sentences.
        speed: Ratio of the rows per second to those with the default settings.
    """

    batch_tokens: int
    workers: int
    threads: int
    cpu: str
    cores: int
    sample: str
    speed: float
    gpu: str = ""

    def here(self, gpu: str) -> bool:
        """Whether this is the machine, and this its GPU."""
        machine = (hardware.cpu()[0], hardware.cores(), gpu)
        return (self.cpu, self.cores, self.gpu) == machine


def save(folder: Path, tuned: Tuned) -> Path:
    """Write it into the bundle's folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    file = folder / FILES["cuda" if tuned.gpu else "cpu"]
    try:
        file.write_text(json.dumps(dataclasses.asdict(tuned), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{file}: cannot write: {error.strerror or error}",
            "copy the bundle to where you may write, or give engine run the settings each time",
        ) from error
    return file


def load(folder: Path, kind: str = "cpu") -> Tuned | None:
    """The settings of a bundle on a CPU or a GPU, whichever machine they are of; None where there
    are none.

    Args:
        kind: A key of `FILES`.

    Raises:
        BundleError: The file is damaged.
    """
    file = folder / FILES[kind]
    if not file.exists():
        return None
    try:
        content = typed_json.parse(typed_json.read_bytes(file))
        return typed_json.read(Tuned, content, _BOUNDS)
    except typed_json.MismatchError as error:
        raise BundleError(
            f"{file}: cannot read: {error}", f"remove it, or: engine tune {folder}"
        ) from error


def applied(folder: Path, config: RunConfig, gpu: str) -> RunConfig:
    """A run's settings with the tuned ones, where they are of this machine and the run sets none of
    `batch_tokens`, `workers` and `threads`.

    Args:
        gpu: Name of the GPU that will compute, "" for the CPU.
    """
    if config.batch_tokens or config.workers or config.threads:
        return config
    tuned = load(folder, "cuda" if gpu else "cpu")
    if tuned is None or not tuned.here(gpu):
        return config
    return dataclasses.replace(
        config, batch_tokens=tuned.batch_tokens, workers=tuned.workers, threads=tuned.threads
    )
