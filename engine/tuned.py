"""What `engine tune` found out, beside a bundle: the settings that are fastest on a CPU.

BUNDLE/tuned.json    not one of the files that were exported: the bundle is the same without it
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from engine import hardware
from engine.config import RunConfig
from engine.errors import BundleError, OutputError

FILE = "tuned.json"


@dataclass(frozen=True)
class Tuned:
    """Settings and the machine that they were measured on.

    Attributes:
        batch_tokens, workers, threads: As `config.RunConfig` has them.
        cpu, cores: The machine.
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

    @property
    def here(self) -> bool:
        """Whether this is the machine."""
        return (self.cpu, self.cores) == (hardware.cpu()[0], hardware.cores())


def save(folder: Path, found: Tuned) -> Path:
    """Put it beside the bundle's files.

    Raises:
        OutputError: The folder can not be written.
    """
    file = folder / FILE
    try:
        file.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{file}: can not be written: {error.strerror or error}",
            "copy the bundle to where you may write, or give engine run the settings each time",
        ) from error
    return file


def load(folder: Path) -> Tuned | None:
    """What was found for a bundle, on whatever machine; None where nothing was.

    Raises:
        BundleError: The file is damaged.
    """
    file = folder / FILE
    try:
        return Tuned(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise BundleError(
            f"{file}: can not be read: {type(error).__name__}",
            f"remove it, or: engine tune {folder}",
        ) from error


def applied(folder: Path, config: RunConfig) -> RunConfig:
    """A run's settings with what was found, where that was on this machine and nothing of it is
    set: `batch_tokens`, `workers`, `threads`."""
    own = config.batch_tokens or config.workers or config.threads
    if own or config.device.startswith("cuda"):
        return config
    found = load(folder)
    if found is None or not found.here:
        return config
    return dataclasses.replace(
        config, batch_tokens=found.batch_tokens, workers=found.workers, threads=found.threads
    )
