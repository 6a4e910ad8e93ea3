"""Checkpoints and bundles that are built once and kept between runs, in `.test-cache/`.

An entry is named by the hash of everything it is made from: for a checkpoint the source of its
builder and the arguments; for a bundle the checkpoint's name and bytes, the arguments of the export
and the source of all that an export runs, and the CPU with what chooses its kernels, since a
calibration's last bits depend on them; for both the versions of the libraries. So an entry is never
stale, only unused. Workers that want the same entry build it once.

Entries are shared: copy one before you change it. Tests of the export itself call
`engine.export.export`.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from engine.bundle import format as bundle_format
from engine.core import hardware
from engine.export.versions import versions

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".test-cache"
CACHE_BYTES = 3 << 30
RECENT_SECONDS = 3600
# An export runs nothing of these.
UNUSED_BY_EXPORTS = ("bench", "cli", "demo", "integrations", "runner")


def checkpoint_of(build: Callable[..., Path], *arguments: Any, **config: Any) -> Path:
    """The checkpoint that `build(folder, *arguments, **config)` writes; `build` is a function of
    a module."""
    assert build.__qualname__.isidentifier(), "lambdas and methods have no name of their own"
    what = (build.__qualname__, arguments, sorted(config.items()))
    source = Path(inspect.getfile(build)).read_bytes()
    key = _hash(source, _source_of_checkpoints(), repr(what))
    return entry(f"checkpoint-{key}", lambda folder: build(folder, *arguments, **config))


def bundle_of(
    checkpoint: Path, task: str | None, recipe: str = "fp32", *, force: bool = False
) -> Path:
    """The bundle of a checkpoint; those of other recipes are made from the fp32 bundle."""
    force = force and recipe != "fp32"
    key = _hash(
        _source_of_exports(),
        content(checkpoint),
        repr((checkpoint.name, task, recipe, force)),
        _kernels(),
    )
    return entry(f"bundle-{key}", lambda folder: _export(checkpoint, folder, task, recipe, force))


def export_once(
    checkpoint: Path, out: Path, *, task: str | None, recipe: str = "fp32", force: bool = False
) -> bundle_format.Description:
    """A copy of that bundle in `out`, for tests that change it or need it in one place."""
    shutil.copytree(bundle_of(checkpoint, task, recipe, force=force), out)
    return bundle_format.load(out).description


def _export(checkpoint: Path, folder: Path, task: str | None, recipe: str, force: bool) -> None:
    from engine.export import export, quantize

    if recipe == "fp32":
        export(str(checkpoint), folder, task=task)
    else:
        quantize(bundle_of(checkpoint, task), folder, recipe=recipe, force=force)


def entry(name: str, build: Callable[[Path], object]) -> Path:
    """The folder of this name in the cache; `build` writes it if it is not there."""
    folder = CACHE / name
    with _lock(name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="unfinished-") as temporary:
                build(Path(temporary) / "entry")
                (Path(temporary) / "entry").rename(folder)
        os.utime(folder)
    return folder


def clear_unused() -> None:
    """Remove the entries used longest ago until the rest fits into `CACHE_BYTES`."""
    entries = [path for path in CACHE.glob("*-*") if path.is_dir()]
    room = CACHE_BYTES
    for folder in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
        room -= sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if room < 0 and time.time() - folder.stat().st_mtime > RECENT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _kernels() -> str:
    switches = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
    return repr((hardware.cpu(), [os.environ.get(name) for name in switches]))


@contextmanager
def _lock(name: str) -> Iterator[None]:
    locks = CACHE / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _source_of_checkpoints() -> str:
    files = sorted((ROOT / "tests/support/checkpoints").glob("*.py"))
    return _hash(*(file.read_bytes() for file in files), repr(versions()))


@cache
def _source_of_exports() -> str:
    engine = ROOT / "engine"
    files = [
        file
        for file in sorted(engine.rglob("*.py"))
        if file.relative_to(engine).parts[0] not in UNUSED_BY_EXPORTS
    ]
    return _hash(*(file.read_bytes() for file in files), repr(versions()))


def content(folder: Path) -> str:
    """The hash of a folder's files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = (part for file in files for part in (str(file.relative_to(folder)), file.read_bytes()))
    return _hash(*named)


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:20]
