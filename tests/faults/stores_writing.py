"""Runs to an object store that fail, are killed, stopped, doubled and put to sleep; moto's server
is the store, in a process of its own.

    PYTHONPATH=tests python -m faults.stores_writing --save FILE.json [--only GROUP ...]
        [--step N] [--pairs N] [--sleeps N] [--pieces N]

Each run is a fork of this process, which has imported all and uses no library's threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from faults.stalling import stalling
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_jsonl
from support.object_stores import BUCKET, Store, client_of, environment, serving

from engine.data import StoredFolder, stored_folder
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import EngineError
from engine.runner import coordinator, store_lock
from engine.runner.collection import collect

OUT = f"s3://{BUCKET}/out"
WRITES = ("put", "put_file", "copy", "remove")
SETTINGS: dict[str, Any] = {"window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 1}
FAULTS = ("raise before", "raise after", "kill before", "kill during", "kill after")
FAILED, REFUSED, TAKEN = 10, 11, 12
"""Exit codes of a fork: an exception, the lock is another's, the lock was taken over."""


class FaultError(Exception):
    """What the harness raises in a run."""


@contextmanager
def _server() -> Iterator[Store]:
    """moto in a fork, so that this process has no threads when it forks runs."""
    ready, report = os.pipe()
    pid = os.fork()
    if not pid:
        with serving() as store:
            os.write(report, store.endpoint.encode())
            signal.pause()
    endpoint = os.read(ready, 1000).decode()
    try:
        yield Store(endpoint, client_of(endpoint))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(report)


class Runs:
    """Forks runs over one corpus, and looks at what they leave.

    Args:
        folder: For corpora, scratch and the bundle.
        store: Where they write.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.bundle = make_bundle(folder / "bundle")
        for n in range(4):
            write_jsonl(folder / f"old/{n}.jsonl", texts(30, seed=n), n * 30)
        shutil.copytree(folder / "old", folder / "new")
        write_jsonl(folder / "new/1.jsonl", texts(20, seed=9), 30)
        (folder / "new/2.jsonl").unlink()
        (folder / "new/3.jsonl").rename(folder / "new/z.jsonl")
        write_jsonl(folder / "new/y.jsonl", texts(20, seed=8), 500)
        os.environ.update(environment(store.endpoint))

    def start(
        self,
        corpus: str,
        *,
        scratch: str = "scratch",
        before: Callable[[], None] = lambda: None,
        pause: float = 0,
        **settings: Any,
    ) -> int:
        """Fork a run; returns its process id."""  # fmt: skip
        pid = os.fork()
        if pid:
            return pid
        code = FAILED
        try:
            before()
            backend = FakeBackend(before=lambda call: time.sleep(pause))
            report = coordinator.run(
                open_bundle(self.bundle, backend),
                self.folder / corpus,
                OUT,
                scratch=str(self.folder / scratch),
                **SETTINGS | settings,
            )
            code = 1 if report.rows_computed else 0
        except EngineError as error:
            code = REFUSED if "writing here" in error.message else FAILED
            code = TAKEN if "has taken over" in error.message else code
            (self.folder / "error").write_text(error.message)
        finally:
            os._exit(code)

    def run(self, corpus: str, **rest: Any) -> int:
        """Fork a run and wait for it; returns its exit code, or minus the signal."""
        return wait(self.start(corpus, **rest))

    def collect(self) -> None:
        pid = os.fork()
        if not pid:
            try:
                collect(OUT, scratch=str(self.folder / "scratch"))
            finally:
                os._exit(0)
        wait(pid)

    def left(self) -> dict[str, Any]:
        """What the store has, but for the times that a record tells and the lock."""
        files: dict[str, Any] = self.store.contents("out/")
        for name in [name for name in files if name.startswith("_manifest/starts/")]:
            del files[name]  # what each start did is another thing each time
        files.pop(store_lock.LOCK, None)
        records = (name for name in list(files) if name.startswith("_manifest/part-"))
        for name in records:
            record = json.loads(files[name])
            record["part"].pop("modified")
            files[name] = {k: v for k, v in record.items() if k != "seconds"}
        return files

    def reset(self) -> None:
        self.store.clear()
        for name in ("scratch", "one", "other"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def counting(file: Path) -> None:
    """Write a byte to a file for each change of the store."""
    failing(-1, "none", file)


def failing(number: int, fault: str, counted: Path | None = None) -> None:
    """Have the `number`-th change of a store fail in this process."""
    calls = iter(range(1 << 30))

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(self: StoredFolder, *rest: Any, **named: Any) -> Any:
            now = next(calls) == number
            if counted:
                with counted.open("ab") as stream:
                    stream.write(b".")
            if now and fault.endswith("before"):
                _fail(fault)
            if now and fault.endswith("during"):
                threading.Timer(random.uniform(0, 0.008), _fail, ["kill"]).start()
            result = real(self, *rest, **named)
            if now and fault.endswith("after"):
                _fail(fault)
            return result

        return change

    for name in WRITES:
        setattr(StoredFolder, name, wrap(getattr(StoredFolder, name)))


def _fail(fault: str) -> None:
    if fault.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    raise FaultError


SCENARIOS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fresh": ("", "old", {}),
    "changed-inputs": ("old", "new", {}),
    "overwriting": ("old", "new", {"overwrite": True, "result_prefix": "p_"}),
}
"""What the store has before, the corpus and the settings of the run that fails."""


def fail_everywhere(scenario: str, runs: Runs, step: int) -> dict[str, Any]:
    """Every fault at every change of a scenario, or one of them at every `step`-th: what is left,
    and the next start."""
    figures: Counter[str] = Counter()
    before, corpus, settings = SCENARIOS[scenario]
    changes = runs.folder / "changes"

    def begin() -> None:
        runs.reset()
        if before:
            runs.run(before)

    runs.reset()
    runs.run(corpus, **settings)
    whole = runs.left()
    begin()
    earlier = runs.left()
    changes.write_bytes(b"")
    runs.run(corpus, before=partial(counting, changes), **settings)
    for number in range(0, changes.stat().st_size, step):
        for fault in FAULTS if step == 1 else (random.choice(FAULTS),):
            begin()
            code = runs.run(corpus, before=partial(failing, number, fault), **settings)
            _check(runs, figures, (earlier, whole), partial(runs.run, corpus, **settings))
            figures["killed"] += code == -signal.SIGKILL
    return dict(figures)


def fail_at_batches(runs: Runs, step: int) -> dict[str, Any]:
    """An exception, and a kill, at every `step`-th batch of a fresh run."""
    figures: Counter[str] = Counter()
    runs.reset()
    runs.run("old")
    whole = runs.left()
    for number in count(0, step):
        for fault in ("raise", "kill"):
            runs.reset()
            if runs.run("old", before=partial(failing_batch, number, fault)) == 1:
                return dict(figures)  # there are no more batches
            figures["batches"] += 1
            figures["success beside a fault"] += "_SUCCESS" in runs.left()
            _check(runs, figures, ({}, whole), partial(runs.run, "old"))
    raise AssertionError("a run has an end")


def failing_batch(number: int, fault: str) -> None:
    real, calls = FakeBackend.called, iter(range(1 << 30))

    def called(self: FakeBackend, graph: str, shape: tuple[int, ...]) -> None:
        if next(calls) == number:
            _fail(fault)
        real(self, graph, shape)

    FakeBackend.called = called  # type: ignore[method-assign]


def _check(
    runs: Runs, figures: Counter[str], wholes: tuple[Any, Any], again: Callable[[], int]
) -> None:
    """Count what is wrong with what a fault left, and with what the next start makes of it."""
    left = runs.left()
    parts = {name for name in left if name.startswith("part-")}
    figures["torn keys"] += sum(all(w.get(n) != left[n] for w in wholes) for n in parts)
    if "_SUCCESS" in left:
        named = set(json.loads(left["_SUCCESS"])["files"])
        figures["parts gone or unrecorded beside _SUCCESS"] += named != parts
    runs.collect()
    figures["uploads after gc"] += len(runs.store.uploads())
    records = {Path(n).stem for n in runs.left() if n.startswith("_manifest/part-")}
    figures["unrecorded parts after gc"] += sum(
        Path(n).stem not in records for n in runs.left() if n.startswith("part-")
    )
    figures["starts that failed"] += again() not in (0, 1)
    figures["other bytes after the next start"] += runs.left() != wholes[1]
    figures["points"] += 1


def kill_in_pieces(runs: Runs, points: int) -> dict[str, Any]:
    """Kills in uploads of several pieces, which leave some that no listing shows."""
    figures: Counter[str] = Counter()
    file = runs.folder / "large"
    file.write_bytes(os.urandom(1 << 20) * 22)
    for _ in range(points):
        runs.reset()
        runs.run("old")
        whole = runs.left()
        pid = os.fork()
        if not pid:
            stored_folder.LARGEST_PUT, stored_folder._PIECE = 1 << 20, 5 << 20
            threading.Timer(random.uniform(0.02, 0.25), _fail, ["kill"]).start()
            StoredFolder(OUT).put_file("part-00009-large.arrow", file, None)
            os._exit(0)
        figures["killed"] += wait(pid) == -signal.SIGKILL
        figures["uploads left by the kill"] += len(runs.store.uploads())
        runs.collect()
        figures["uploads after gc"] += len(runs.store.uploads())
        figures["other keys after gc"] += runs.left() != whole
        figures["points"] += 1
    return dict(figures)


def start_pairs(runs: Runs, pairs: int) -> dict[str, Any]:
    """Two runs at once, with a scratch each as on two machines."""
    figures: Counter[str] = Counter()
    runs.reset()
    runs.run("old")
    whole = runs.left()
    for _ in range(pairs):
        runs.reset()
        closed, gate = os.pipe()

        def ready(closed: int = closed, gate: int = gate) -> None:
            os.close(gate)
            os.read(closed, 1)  # until the gate is closed: both at once

        pids = [runs.start("old", scratch=name, before=ready) for name in ("one", "other")]
        os.close(gate)
        codes = sorted(map(wait, pids))
        os.close(closed)
        figures["pairs"] += 1
        figures["one computed and one was refused"] += codes == [1, REFUSED]
        figures["one computed and one came after it"] += codes == [0, 1]
        figures["both computed"] += codes == [1, 1]
        figures["other"] += codes not in ([1, REFUSED], [0, 1], [1, 1])
        figures["other bytes"] += runs.left() != whole
    return dict(figures)


def put_to_sleep(runs: Runs, sleeps: int) -> dict[str, Any]:
    """A run is stopped by SIGSTOP somewhere, another takes its lock and finishes, and it goes on.
    The lease is shorter than it is: seconds instead of minutes."""
    figures: Counter[str] = Counter()
    drawn = random.Random(1)
    runs.reset()
    runs.run("new")
    whole = runs.left()
    while figures["slept"] < sleeps:
        runs.reset()
        (runs.folder / "error").unlink(missing_ok=True)
        first = runs.start("old", scratch="one", before=partial(_leases, 180.0), pause=0.01)
        time.sleep(drawn.uniform(0.05, 1.2))
        os.kill(first, signal.SIGSTOP)
        if os.waitpid(first, os.WNOHANG)[0]:
            figures["ended before it slept"] += 1
            continue
        holder = json.loads(runs.store.contents("out/").get(store_lock.LOCK, b"{}")).get("pid")
        if holder != first:  # it has not begun, or is about to end: not asleep within its run
            os.kill(first, signal.SIGKILL)
            wait(first)
            figures["slept without the lock"] += 1
            continue
        time.sleep(0.3)
        taken = runs.run("new", scratch="other", before=partial(_leases, -1.0))
        if taken != 1:  # the first had finished, or has other inputs only
            figures["the other could not begin"] += 1
            os.kill(first, signal.SIGKILL)
            wait(first)
            continue
        before = runs.store.contents()
        os.kill(first, signal.SIGCONT)
        code = wait(first)
        figures["slept"] += 1
        figures["refused"] += code == TAKEN
        if code not in (TAKEN, 0, 1):
            error = runs.folder / "error"
            figures[f"failed: {error.read_text()[:200] if error.is_file() else code}"] += 1
        figures["finished after all"] += code in (0, 1)
        figures["bytes changed by the sleeper"] += runs.store.contents() != before
        figures["the other's answers wrong"] += runs.left() != whole
    return dict(figures)


def stop_in_uploads(runs: Runs, stops: int) -> dict[str, Any]:
    """SIGTERM while a part is put and the server does not answer; seconds until the end."""
    figures: Counter[str] = Counter()
    sign, seconds = runs.folder / "held", []
    lines = "".join(f'{{"text": "{spanish(n)}"}}\n' for n in range(40))
    (runs.folder / "numbers.jsonl").write_text(lines)
    command = [sys.executable, "-m", "engine", "run", str(BUNDLE)]
    command += [str(runs.folder / "numbers.jsonl"), "-o", OUT]
    command += ["--scratch", str(runs.folder / "scratch")]
    with stalling(runs.store.endpoint, sign) as endpoint:
        for _ in range(stops):
            runs.reset()
            sign.unlink(missing_ok=True)
            held = {**os.environ, "AWS_ENDPOINT_URL": endpoint}
            process = subprocess.Popen(command, env=held, stderr=subprocess.DEVNULL)
            while not sign.exists() and process.poll() is None:
                time.sleep(0.05)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            figures["code 75"] += process.wait() == 75
            seconds.append(time.monotonic() - started)
            figures["success beside a fault"] += "_SUCCESS" in runs.left()
            again = subprocess.run(command, check=False, capture_output=True).returncode
            figures["starts that failed"] += again != 0 or "_SUCCESS" not in runs.left()
            figures["stops"] += 1
    worst, median = round(max(seconds), 2), round(statistics.median(seconds), 2)
    return {**figures, "worst_s": worst, "median_s": median}


def _leases(lease: float) -> None:
    store_lock.LEASE, store_lock.FRESH, store_lock.RENEWAL = lease, 0.1, 0.1


GROUPS: dict[str, Callable[[Runs, int], dict[str, Any]]] = {
    **{name: partial(fail_everywhere, name) for name in SCENARIOS},
    "batches": fail_at_batches,
    "pieces": kill_in_pieces,
    "pairs": start_pairs,
    "sleeps": put_to_sleep,
    "stops": stop_in_uploads,
}


def measure(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The figures of groups: every so many changes and batches, or so many pairs and so on."""
    folder = Path(tempfile.mkdtemp(prefix="faults-stores-"))
    random.seed(0)
    figures = {}
    try:
        with _server() as store:
            runs = Runs(folder, store)
            for name, size in sizes.items():
                started = time.monotonic()
                figures[name] = GROUPS[name](runs, size)
                figures[name]["seconds"] = round(time.monotonic() - started)
        return figures
    finally:
        shutil.rmtree(folder, ignore_errors=True)


WRONG = (
    "torn keys", "parts gone or unrecorded beside _SUCCESS", "uploads after gc",
    "unrecorded parts after gc", "starts that failed", "other bytes after the next start",
    "success beside a fault", "other keys after gc", "both computed", "other", "other bytes",
    "bytes changed by the sleeper", "the other's answers wrong",
)  # fmt: skip


def wrong(figures: Mapping[str, Any]) -> dict[str, int]:
    """The figures that should be 0 and are not."""
    return {n: group[n] for group in figures.values() for n in WRONG if group.get(n)}


def main() -> None:
    from machine import describe

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    for name, size in {"step": 1, "pieces": 10, "pairs": 50, "sleeps": 30, "stops": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args()
    sizes = {name: getattr(given, name, given.step) for name in given.only}
    saved = json.loads(given.save.read_text()) if given.save.is_file() else {}
    figures = measure(sizes)
    given.save.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: metadata.version(name) for name in ("obstore", "moto")}
    all_figures = {**saved, **figures, "machine": describe(), "stores": versions}
    given.save.write_text(json.dumps(all_figures, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if wrong(figures) else 0)


if __name__ == "__main__":
    main()
