"""Resume inside a split: a run over one file, killed again and again.

    python benchmarks/kills.py [--kills 100] [--rows 20000] [--bundle BUNDLE] [--spread even|batch]
                               [--workers N] [-o FOLDER] [--save]

Writes one file of that many different rows, runs it once undisturbed, and then starts it again and
again, each start ended by SIGKILL or SIGTERM at a random time, the last one left alone. With
`--spread even` the kills are spread over the work: a start is ended after 0 to 2 times the work's
time over the number of kills, from its first step on. With `--spread batch` a start is given 0.2 to
3 seconds, and the run may be done before all kills. A process of its own counts: what is computed
is logged by a wrapper around the scheduler's steps (or, for an encoder, around a batch), outside of
the engine. `rows` are rows finished over all starts, `tokens` what was generated for them and for
those that were in hand; both over those of the undisturbed run. It exits with 1 where more than
1.15 times the rows are computed, or bytes differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import save

from engine.demo import BUNDLE
from engine.demo.numerals import spanish

ALLOWED = 1.15
SPREADS = ("even", "batch")
_STOPPED = (75, -signal.SIGTERM, -signal.SIGKILL)


def write(file: Path, rows: int) -> None:
    """Rows that all differ, as JSON lines."""
    lines = (json.dumps({"id": n, "text": spanish(n * 7919 % 1_000_000)}) for n in range(rows))
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def counted(log: str, arguments: list[str]) -> None:
    """`engine` with these arguments, where everything that is computed is logged."""
    from engine.answering.stages import Stages
    from engine.bundle.batching import rows_ended
    from engine.cli import main as engine
    from engine.generation import scheduler

    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(rows: int, tokens: int) -> None:
        os.write(handle, f"{rows} {tokens}\n".encode())

    decode, infer = scheduler.run, Stages.infer

    def decode_counted(cache: Any, search: Any, *others: Any) -> None:
        step = search.step

        def step_counted(*of: Any) -> Any:
            result = step(*of)
            note(int(result.finished.sum()), int(result.tokens))
            return result

        search.step = step_counted
        decode(cache, search, *others)

    def infer_counted(stages: Any, batch: Any, *others: Any) -> Any:
        output = infer(stages, batch, *others)
        if not stages.context.model_config.decoder:
            note(rows_ended(batch), batch.tokens)
        return output

    scheduler.run = decode_counted  # type: ignore[assignment]  # it takes what that takes
    Stages.infer = infer_counted  # type: ignore[method-assign,assignment]  # likewise
    sys.argv = ["engine", *arguments]
    engine()


class Runs:
    """Starts of one run: its log, and how each ends.

    Args:
        bundle: The model.
        file: The corpus.
        out: The output folder.
        workers: As of the run.
    """

    def __init__(self, bundle: str, file: Path, out: Path, workers: int) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        self._arguments = ["run", bundle, str(file), "-o", str(out), "--keep", "id"]
        self._arguments += ["--workers", str(workers), "--device", "cpu"]

    def start(self, seconds: float | None = None, end: int = signal.SIGKILL) -> tuple[int, float]:
        """One start, ended `seconds` after its first step; (exit code, seconds from there on)."""
        before = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, __file__, "--counted", str(self.log), *self._arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (
            self.log.exists() and self.log.stat().st_size > before
        ):
            time.sleep(0.001)
        began = time.perf_counter()
        if seconds is not None and process.poll() is None:
            time.sleep(seconds)
            process.send_signal(end)
        return process.wait(), time.perf_counter() - began

    def computed(self) -> tuple[int, int]:
        """Rows and tokens over all starts."""
        pairs = [line.split() for line in self.log.read_text(encoding="ascii").splitlines()]
        return sum(int(rows) for rows, _ in pairs), sum(int(tokens) for _, tokens in pairs)

    def digest(self) -> str:
        """Of names and bytes of the parts and the rejects."""
        found = hashlib.sha256()
        files = [*self.out.glob("part-*"), *(self.out / "_manifest" / "rejects").glob("*")]
        for path in sorted(files):
            found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The undisturbed run, then the killed ones; both counted."""
    file, drawn = folder / "rows.jsonl", random.Random(options.seed)
    write(file, options.rows)
    quiet = Runs(options.bundle, file, folder / "quiet", options.workers)
    code, work = quiet.start()
    if code:
        raise SystemExit(f"engine run failed with exit code {code}")
    killed = Runs(options.bundle, file, folder / "killed", options.workers)
    codes = list(_kill(killed, work, options, drawn))
    (rows, tokens), (all_rows, all_tokens) = quiet.computed(), killed.computed()
    return {
        "bundle": Path(options.bundle).name,
        "rows": options.rows,
        "workers": options.workers,
        "spread": options.spread,
        "kills": sum(code in _STOPPED for code in codes),
        "starts": len(codes),
        "seconds_undisturbed": round(work, 2),
        "rows_computed": all_rows,
        "rows_ratio": round(all_rows / rows, 4),
        "tokens_ratio": round(all_tokens / tokens, 4),
        "bytes_equal": quiet.digest() == killed.digest(),
    }


def _kill(
    runs: Runs, work: float, options: argparse.Namespace, drawn: random.Random
) -> Iterator[int]:
    """The exit code of each start until the run is done."""
    mean = work / options.kills
    for _ in range(options.kills):
        seconds = drawn.uniform(0, 2 * mean) if options.spread == "even" else drawn.uniform(0.2, 3)
        code, _ = runs.start(seconds, drawn.choice((signal.SIGKILL, signal.SIGTERM)))
        yield code
        if code not in _STOPPED:
            break
    if not (runs.out / "_SUCCESS").exists():
        yield runs.start()[0]


def main() -> None:
    if sys.argv[1:2] == ["--counted"]:
        counted(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--bundle", default=str(BUNDLE))
    parser.add_argument("--spread", choices=SPREADS, nargs="+", default=SPREADS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="folder for corpora and outputs")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/kills.json")
    options = parser.parse_args()
    results = []
    for spread in options.spread:
        options.spread = spread
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            results.append(measure(Path(folder), options))
        print(json.dumps(results[-1]))
    if options.save:
        save("kills", {"runs": results})
    sys.exit(any(r["rows_ratio"] > ALLOWED or not r["bytes_equal"] for r in results))


if __name__ == "__main__":
    main()
