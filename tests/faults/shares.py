"""Shares of a run that are killed while others write into the same folder.

    PYTHONPATH=tests:benchmarks python -m faults.shares --save FILE.json [--rounds 60] [--seed 1]

Of each round all shares start at once, as forks of this process; some are killed at random moments
and started again, which may be killed, too, until each has ended by itself. Then the folder has the
bytes of one run, and `_SUCCESS` was there at no moment at which a part had no record. Done with
`flock` and, as on a file system without it, with lock files alone.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from faults.forks import Fork, fork
from faults.kill_scenarios import IMPORTED, SETTINGS, write_inputs
from support.fakes import make_bundle, open_bundle

from engine.pipeline import Bundle
from engine.runner.coordinator import run
from engine.runner.folder_lock import FILE, FLOCK

WAYS = (FLOCK, FILE)
SHARES, STARTS = 3, 4
_LOADED = IMPORTED


def _run(way: str, bundle: Bundle, corpus: Path, out: Path, share: str) -> None:
    if way == FILE:

        def flock(*arguments: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        fcntl.flock = flock
    run(bundle, corpus, out, **SETTINGS, share=share)


def left(out: Path) -> dict[str, bytes]:
    """Parts, bad rows and the record of success."""
    files = [*out.glob("part-*"), *(out / "_manifest/rejects").glob("*"), out / "_SUCCESS"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def is_true(out: Path) -> bool:
    """Whether there is no success, or a record of each of its parts."""
    try:
        names = json.loads((out / "_SUCCESS").read_text())["files"]
    except FileNotFoundError:
        return True
    return all((out / "_manifest" / f"{Path(name).stem}.json").is_file() for name in names)


def attempt(
    body: Callable[[str], object], out: Path, folder: Path, drawn: random.Random, seconds: float
) -> tuple[str, int]:
    """One round: what was wrong, or "", and how many shares were killed."""
    open_shares, killed = list(range(1, SHARES + 1)), 0
    for start in range(STARTS):
        children = {n: fork(partial(body, f"{n}/{SHARES}"), folder / f"{n}.txt")
                    for n in open_shares}  # fmt: skip
        for child in children.values():
            child.start()
        if start + 1 < STARTS:
            killed += _kill_some(list(children.values()), drawn, seconds)
        codes = {number: child.wait() for number, child in children.items()}
        if not is_true(out):
            return "a success without a record of each part", killed
        if failed := [number for number, code in codes.items() if code > 0]:
            return f"share {failed[0]}: {(folder / f'{failed[0]}.txt').read_text()[-600:]}", killed
        open_shares = [number for number, code in codes.items() if code]
    return "", killed


def _kill_some(children: list[Fork], drawn: random.Random, seconds: float) -> int:
    chosen = drawn.sample(children, drawn.randrange(len(children) + 1))
    moments = sorted(drawn.uniform(0.02, 1.0) * seconds for _ in chosen)
    before = 0.0
    for child, moment in zip(chosen, moments, strict=True):
        time.sleep(moment - before)
        before = moment
        child.kill_group()
    return len(chosen)


def measure(way: str, rounds: int, seed: int) -> dict[str, Any]:
    """Counts of what came out of the rounds, "" where all was well, and of shares killed."""
    drawn, counts, killed = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        corpus, out = folder / "in", folder / "out"
        corpus.mkdir()
        write_inputs(corpus)
        bundle = open_bundle(make_bundle(folder / "bundle"))
        body = partial(_run, way, bundle, corpus, out)
        alone, started = fork(partial(body, ""), folder / "alone.txt"), time.monotonic()
        alone.start()
        if alone.wait():
            raise RuntimeError((folder / "alone.txt").read_text())
        seconds, wanted = time.monotonic() - started, left(out)
        for _ in range(rounds):
            shutil.rmtree(out)
            wrong, count = attempt(body, out, folder, drawn, seconds)
            killed += count
            counts[wrong or ("right" if left(out) == wanted else "other bytes")] += 1
    return {"rounds": dict(counts), "killed": killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from machine import describe

    ways = {way: measure(way, arguments.rounds // 2, arguments.seed) for way in WAYS}
    result = {"machine": describe(), "seed": arguments.seed, "shares": SHARES, "ways": ways}
    arguments.save.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(ways, indent=2))


if __name__ == "__main__":
    main()
