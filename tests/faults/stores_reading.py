"""Connections cut while a corpus is downloaded: the rows are those of a local copy.

A small proxy stands between the engine and moto's server, and cuts a connection when so many bytes
of answers have passed, with a reset or with an end; in some points it cuts many times.

    PYTHONPATH=tests python -m faults.stores_reading --save FILE.json [--points N]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from support import object_stores
from support.fakes import make_bundle, open_bundle, texts

from engine.data import object_files, stores
from engine.data.page_cache import PageCache
from engine.runner import coordinator
from engine.runner.report import Report

ROWS, WIDE = 60, 6000
"""Rows of each file, and letters of a column that is kept, so that bytes pass."""
SETTINGS: dict[str, Any] = {
    "window": 16, "batch_tokens": 64, "keep": ("id", "wide"), "workers": 2, "split_size": 200_000,
}  # fmt: skip


class Proxy:
    """Passes bytes on both ways, and cuts connections at offsets of what the server answers."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self.arm([], resets=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, offsets: Sequence[int], *, resets: bool) -> None:
        """Count from 0, and cut at these offsets."""
        with self._lock:
            self.passed, self.cuts = 0, 0
            self._offsets, self._resets = sorted(offsets), resets

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)  # type: ignore[arg-type]  # both are there
            except OSError:
                return
            for pump in (self._pump_up, self._pump_down):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _pump_up(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while content := client.recv(1 << 16):
                server.sendall(content)
        except OSError:
            pass
        _close(server)

    def _pump_down(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while content := server.recv(1 << 14):
                length, cut = self._allowed(len(content))
                client.sendall(content[:length])
                if cut:
                    if self._resets:
                        client.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    break
        except OSError:
            pass
        _close(client)
        _close(server)

    def _allowed(self, length: int) -> tuple[int, bool]:
        with self._lock:
            before, self.passed = self.passed, self.passed + length
            if not self._offsets or self._offsets[0] >= self.passed:
                return length, False
            offset = self._offsets.pop(0)
            self.passed, self.cuts = offset, self.cuts + 1
            return max(0, offset - before), True


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@dataclass
class Point:
    """One run: where its connections were cut, and how it ended."""

    offsets: list[int]
    resets: bool
    cuts: int
    bytes: int
    seconds: float
    problem: str


def write_corpus(folder: Path, seed: int = 7) -> int:
    """A file of every way of reading; its bytes."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    words = texts(4 * ROWS, seed=seed)
    wide = ["".join(draw.choices("abcdefghijklmnop", k=WIDE)) for _ in words]
    table = pa.table({"id": range(len(words)), "text": words, "wide": wide})
    lines = [json.dumps(row) + "\n" for row in table.to_pylist()]
    (folder / "a.jsonl").write_text("".join(lines[:ROWS]))
    pq.write_table(table.slice(ROWS, ROWS), folder / "b.parquet", row_group_size=12)
    with pa.OSFile(str(folder / "c.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as w:
        w.write_table(table.slice(2 * ROWS, ROWS), max_chunksize=16)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress("".join(lines[3 * ROWS :]).encode(), 1))
    return sum(file.stat().st_size for file in folder.iterdir())


def parts_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("part-*")}


@dataclass
class Scene:
    """A store behind a proxy, and what a run over a local copy of it gives."""

    folder: Path
    bundle: Path
    proxy: Proxy
    expected: dict[str, bytes]
    size: int

    def run(self, out: Path) -> Report:
        object_files._cache = PageCache(1 << 26)
        return coordinator.run(open_bundle(self.bundle), "s3://bucket/corpus/", out, **SETTINGS)

    def point(self, number: int, offsets: Sequence[int], *, resets: bool) -> Point:
        out = self.folder / f"out-{number}"
        self.proxy.arm(offsets, resets=resets)
        began, problem = time.perf_counter(), ""
        try:
            self.run(out)
            if parts_of(out) != self.expected:
                problem = "other parts than of a local copy"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - began, 3)
        return Point([*offsets], resets, self.proxy.cuts, self.proxy.passed, seconds, problem)


@contextmanager
def scene() -> Iterator[Scene]:
    """A store with the corpus; the environment and the sizes of requests are this process's."""
    with tempfile.TemporaryDirectory(prefix="faults-stores-reading-") as name:
        folder = Path(name)
        size = write_corpus(folder / "corpus")
        bundle = make_bundle(folder / "bundle")
        coordinator.run(open_bundle(bundle), folder / "corpus", folder / "local", **SETTINGS)
        with object_stores.serving() as store:
            for file in (folder / "corpus").iterdir():
                store.put(f"corpus/{file.name}", file.read_bytes())
            proxy = Proxy(store.endpoint)
            os.environ.update(object_stores.environment(proxy.address))
            stores._open.cache_clear()
            # Several requests a file, as a large one takes.
            object_files.SMALL, object_files.LARGEST = 0, 2 * object_files.PAGE
            try:
                yield Scene(folder, bundle, proxy, parts_of(folder / "local"), size)
            finally:
                proxy.close()


def points(count: int, seed: int = 11) -> list[Point]:
    """Runs with a connection cut at random, of which every tenth is cut ten times; the first is not
    cut at all."""
    draw = random.Random(seed)
    with scene() as here:
        whole = here.point(0, [], resets=False)
        results = [whole]
        for number in range(1, count + 1):
            cuts = 10 if number % 10 == 0 else 1
            offsets = [draw.randrange(whole.bytes) for _ in range(cuts)]
            results.append(here.point(number, offsets, resets=number % 2 == 0))
            if not results[-1].cuts:
                results[-1].problem = results[-1].problem or "nothing was cut"
        return [Point([here.size], False, 0, here.size, 0.0, ""), *results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--points", type=int, default=100)
    given = parser.parse_args()
    corpus, whole, *cut = points(given.points)
    wrong = [point for point in (whole, *cut) if point.problem]
    times = sorted(point.seconds for point in cut)
    summary = {
        "points": len(cut),
        "cuts": sum(point.cuts for point in cut),
        "with_other_rows_or_an_error": len(wrong),
        "bytes_of_the_corpus": corpus.bytes,
        "bytes_of_answers_uncut": whole.bytes,
        "bytes_of_answers_median": sorted(point.bytes for point in cut)[len(cut) // 2],
        "seconds_uncut": whole.seconds,
        "seconds_median": times[len(times) // 2],
        "seconds_most": times[-1],
    }
    print(json.dumps(summary, indent=2))
    if given.save:
        from machine import describe

        given.save.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe(), **summary, "runs": [asdict(p) for p in (whole, *cut)]}
        given.save.write_text(json.dumps(result, indent=1) + "\n")
    if wrong:
        sys.exit(f"{len(wrong)} runs had other rows or failed, first: {wrong[0].problem}")


if __name__ == "__main__":
    main()
