"""What `engine tune` found out, beside a bundle: the settings that are fastest on a machine.

    BUNDLE/tuned.json         on its CPU
    BUNDLE/tuned.cuda.json    on its GPU

Neither is one of the files that were exported: the bundle is the same without them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from engine.core import hardware
from engine.core.config import RunConfig
from engine.errors import BundleError, OutputError

FILES = {"cpu": "tuned.json", "cuda": "tuned.cuda.json"}


@dataclass(frozen=True)
class Tuned:
    """Settings and the machine that they were measured on.

    Attributes:
        batch_tokens, workers, threads: As `config.RunConfig` has them.
        cpu, cores: The machine.
        GPU: Name of the GPU, "" for the CPU.
        sample: What was answered: files, or the engine's own sentences.
        speed: Times as fast as with the settings that a run has otherwise.
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
        own = (hardware.cpu()[0], hardware.cores(), gpu)
        return (self.cpu, self.cores, self.gpu) == own


def save(folder: Path, found: Tuned) -> Path:
    """Put it beside the bundle's files.

    Raises:
        OutputError: The folder cannot be written.
    """
    file = folder / FILES["cuda" if found.gpu else "cpu"]
    try:
        file.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be written: {error.strerror or error}",
            "copy the bundle to where you may write, or give engine run the settings each time",
        ) from error
    return file


def load(folder: Path, kind: str = "cpu") -> Tuned | None:
    """What was found for a bundle on a CPU or a GPU, of whatever machine; None where nothing was.

    Args:
        kind: A key of `FILES`.

    Raises:
        BundleError: The file is damaged.
    """
    file = folder / FILES[kind]
    try:
        return Tuned(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise BundleError(
            f"{file}: cannot be read: {type(error).__name__}",
            f"remove it, or: engine tune {folder}",
        ) from error


def applied(folder: Path, config: RunConfig, gpu: str) -> RunConfig:
    """A run's settings with what was found, where that was on this machine and nothing of it is
    set: `batch_tokens`, `workers`, `threads`.

    Args:
        GPU: Name of the GPU that will compute, "" for the CPU.
    """
    if config.batch_tokens or config.workers or config.threads:
        return config
    found = load(folder, "cuda" if gpu else "cpu")
    if found is None or not found.here(gpu):
        return config
    return dataclasses.replace(
        config, batch_tokens=found.batch_tokens, workers=found.workers, threads=found.threads
    )
