"""Disks that are full, fail or may not be written, at every call of a run that changes its output.

    PYTHONPATH=tests python -m faults.full_disk --save FILE.json [--calls 200] [--sizes 24]

Calls fail by `strace -e inject=CALL:error=...:when=N`, among them reads of the input; files may not
grow beyond a size by RLIMIT_FSIZE. A run ends with one error that has a hint, and leaves neither
`_SUCCESS` nor a part that is torn; or it needs what failed for nothing, and its answers are whole.
The same run without the fault then has the bytes of one that nothing disturbed. Runs are forks of
this process, which has imported all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults.forks import Point, _traced, can_trace, fork, points_of, undisturbed
from faults.locks import parts, write_corpus

from engine.demo import BUNDLE
from engine.errors import EngineError
from engine.runner import journal
from engine.runner.coordinator import run

ERRORS = {
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fsync": ("EIO",),
    "fdatasync": ("EIO",),
    "ftruncate": ("ENOSPC",),
    "openat": ("EROFS", "ENOSPC"),
    "mkdir": ("EROFS", "ENOSPC"),
    "rename": ("EROFS", "EIO"),
    "unlink": ("EROFS", "EIO"),
    "rmdir": ("EROFS",),
}
"""What each call of a run may fail with."""
_TOLD = "an error on purpose: "


def _run(corpus: Path, out: Path, limit: int | None = None) -> None:
    journal.LAZY_SECONDS = 0.0  # every split has a journal
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        run(BUNDLE, corpus, out, window=20, batch_tokens=64, workers=1, device="cpu")
    except EngineError as error:
        os.write(2, (_TOLD + str(error)).encode())
        raise


def failed(body: Callable[[], object], point: Point, error: str, output: Path) -> int:
    """Exit code of a run of which a call fails."""
    trace = ["-e", f"trace={point.call}"]
    inject = f"inject={point.call}:error={error}:when={point.number}"
    return _traced(fork(body, output), Path(os.devnull), [*trace, "-e", inject])


def judged(code: int, out: Path, wanted: dict[str, bytes], text: str) -> str:
    """What a disturbed run did: "error", "whole", or what is wrong with it."""
    left, success = parts(out) if out.is_dir() else {}, (out / "_SUCCESS").exists()
    if any(wanted.get(name) != content for name, content in left.items()):
        return "a torn part"
    if code == 0:
        return "whole" if success and left == wanted else "no error, and not whole"
    if code != 1 or _TOLD not in text or "hint: " not in text:
        return f"code {code}: {text[-300:]}"
    return "error" if not success or left == wanted else "_SUCCESS without all parts"


def measure(calls: int, sizes: int, rows: int, seed: int) -> dict[str, Any]:
    """Counts of what runs did by kind of fault; all is well where it is "error" and "whole"."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, out = write_corpus(folder / "c.jsonl", rows), folder / "out"
        output, body = folder / "run.txt", partial(_run, corpus, out)
        undisturbed(body, output)
        wanted = parts(out)
        largest = max(path.stat().st_size for path in out.rglob("*") if path.is_file())

        def note(kind: str, disturbed: Callable[[], int]) -> None:
            shutil.rmtree(out, ignore_errors=True)
            result = judged(disturbed(), out, wanted, output.read_text())
            if undisturbed(body, output) or parts(out) != wanted:
                result = f"not resumed: {output.read_text()[-300:]}"
            counts.setdefault(kind, Counter())[result] += 1

        step = max(1, largest // max(1, sizes))
        for limit in range(step, largest + 1, step):  # 0 would keep the message from its file
            note("RLIMIT_FSIZE", partial(undisturbed, partial(_run, corpus, out, limit), output))
        for point, error in _chosen(body, [str(out), str(corpus)], output, calls, seed, out):
            note(f"{point.call} {error}", partial(failed, body, point, error, output))
    return {kind: dict(counted) for kind, counted in sorted(counts.items())}


def _chosen(
    body: Callable[[], object], paths: Sequence[str], output: Path, calls: int, seed: int, out: Path
) -> list[tuple[Point, str]]:
    """Calls of a run and what they fail with: all, or as many as are wanted, drawn with a seed."""
    if not calls or not can_trace():
        return []
    shutil.rmtree(out)
    points = points_of(body, paths, output)
    pairs = [(point, error) for point in points for error in ERRORS.get(point.call, ())]
    return pairs if len(pairs) <= calls else random.Random(seed).sample(pairs, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--sizes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from benchmarks.machine import describe

    faults = measure(arguments.calls, arguments.sizes, 200, arguments.seed)
    result = {"machine": describe(), "seed": arguments.seed, "faults": faults}
    arguments.save.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(faults, indent=2))


if __name__ == "__main__":
    main()
