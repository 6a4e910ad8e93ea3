"""Runs of one folder at once, and runs that lose their lock while they are stopped.

    PYTHONPATH=tests python -m faults.locks --save FILE.json [--pairs 200] [--takeovers 40]

Runs are forks of this process, which has imported all. Of a pair both start at once: one writes,
the other is refused, and the folder has the bytes of a run alone. A takeover stops a run at a
random moment (SIGSTOP), removes its lock file, has a second run finish the folder, and lets the
first go on (SIGCONT): it changes no byte. Both are done with `flock` and, as on a file system
without it, with the lock file alone.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from faults.forks import fork

from engine.demo import BUNDLE
from engine.errors import OutputError
from engine.runner.coordinator import run
from engine.runner.folder_lock import FILE, FLOCK, LOCK

WAYS = (FLOCK, FILE)
REFUSED, LOST = "another run is writing here", "no longer the lock of this run"
_WINDOW = 20


def write_corpus(file: Path, rows: int) -> Path:
    file.write_text("".join(f'{{"text": "{row}"}}\n' for row in range(rows)))
    return file


def parts(out: Path) -> dict[str, bytes]:
    """What is in a finished folder but for records, which have the seconds it took."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def tree(out: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder with its bytes and its inode."""
    return {
        path.relative_to(out).as_posix(): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_ino,
        )
        for path in out.rglob("*")
    }


def _run(way: str, corpus: Path, out: Path) -> None:
    if way == FILE:

        def flock(*arguments: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        fcntl.flock = flock
    try:
        run(BUNDLE, corpus, out, window=_WINDOW, batch_tokens=64, workers=1, device="cpu")
    except OutputError as error:
        os.write(2, str(error).encode())
        raise


def pair(body: Callable[[], object], out: Path, wanted: dict[str, bytes], folder: Path) -> str:
    """Start two runs at once; "" where one writes and the other is refused, or what was wrong.

    A run that starts after the other has finished finds all done: that is a pair in turn.
    """
    outputs = [folder / "first.txt", folder / "second.txt"]
    children = [fork(body, output) for output in outputs]
    for child in children:
        child.start()
    codes = [child.wait() for child in children]
    if parts(out) != wanted:
        return "other bytes"
    if codes == [0, 0]:
        return "in turn"
    if sorted(codes) != [0, 1]:
        return f"codes {codes}"
    text = outputs[codes.index(1)].read_text()
    return "" if REFUSED in text and "process " in text else f"refused with {text[-300:]}"


def takeover(
    body: Callable[[], object], out: Path, wanted: dict[str, bytes], folder: Path, seconds: float
) -> str:
    """Stop a run, take its folder over, let it go on; "" where it changes nothing."""
    output = folder / "first.txt"
    first = fork(body, output)
    first.start()
    time.sleep(seconds)
    os.kill(first.pid, signal.SIGSTOP)
    time.sleep(0.02)
    begun = (out / "_manifest" / LOCK).exists()
    with suppress(FileNotFoundError):
        (out / "_manifest" / LOCK).unlink()
    second = fork(body, folder / "second.txt")
    second.start()
    code = second.wait()
    before = tree(out)
    os.kill(first.pid, signal.SIGCONT)
    first_code = first.wait()
    if code or parts(out) != wanted:
        return f"the second ended with {code}: {(folder / 'second.txt').read_text()[-300:]}"
    if not begun and first_code == 0 and parts(out) == wanted:
        return "in turn"  # it had no lock yet, and took it when the second had let it go
    if (after := tree(out)) != before:
        changed = sorted({name for name, _ in before.items() ^ after.items()})
        return f"the first changed {changed[:5]}"
    if first_code == 0:
        return "first had finished"
    text = output.read_text()
    return "" if LOST in text or REFUSED in text else f"other error: {text[-300:]}"


def measure(way: str, pairs: int, takeovers: int, rows: int, seed: int) -> dict[str, Any]:
    """Counts of what happened; all is well where only "right" and names of no error are counted."""
    drawn = random.Random(seed)
    counts: dict[str, Counter[str]] = {"pairs": Counter(), "takeovers": Counter()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, out = write_corpus(folder / "c.jsonl", rows), folder / "out"
        body = partial(_run, way, corpus, out)
        alone, started = fork(body, folder / "alone.txt"), time.monotonic()
        alone.start()
        if alone.wait():
            raise RuntimeError((folder / "alone.txt").read_text())
        seconds, wanted = time.monotonic() - started, parts(out)
        for _ in range(pairs):
            shutil.rmtree(out)
            counts["pairs"][pair(body, out, wanted, folder) or "right"] += 1
        for _ in range(takeovers):
            shutil.rmtree(out, ignore_errors=True)
            moment = drawn.uniform(0.1, 0.9) * seconds
            result = takeover(body, out, wanted, folder, moment)
            counts["takeovers"][result or "right"] += 1
    return {name: dict(counted) for name, counted in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--takeovers", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from benchmarks.machine import describe

    ways = {
        way: measure(way, arguments.pairs // 2, arguments.takeovers // 2, 400, arguments.seed)
        for way in WAYS
    }
    result = {"machine": describe(), "seed": arguments.seed, "ways": ways}
    arguments.save.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(ways, indent=2))


if __name__ == "__main__":
    main()
