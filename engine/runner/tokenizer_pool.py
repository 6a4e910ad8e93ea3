"""Windows tokenized in processes of their own, for a GPU that reads more than one can give it.

Handing tokens over holds the interpreter: 0.1 to 0.17 µs a token, whatever the cores that find
them, so that one process gives 6 to 9 million a second at most. Each process here has a window at a
time and a share of the cores, and gives back arrays. Until the first of them have begun, which
takes a second or two, the run tokenizes as well.

    run -> process    the terms first; then a window of texts each time
    process -> run    None when it has begun; then a window's sequences, or the error that it
                      failed with

Both ways as pickles, through pipes that nobody else can write to. A process ends when its input
does, so that none outlives its run; it has a session of its own: Ctrl-C reaches the run, which ends
them.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import tasks
from engine.bundle import format as bundle_format
from engine.bundle.tokenizer import Tokenizer
from engine.core.hardware import cores
from engine.core.types import Encoded, Rows
from engine.errors import BackendError, from_dict, told
from engine.runner.threads import Pool, ended

_CODE = "from engine.runner.tokenizer_pool import main; main()"
_NOTHING = Rows(None, ())


@dataclass(frozen=True)
class WorkerConfig:
    """What a process has to know: a bundle's folder, and what its `model.Stages` are bound to."""

    folder: Path
    options: Mapping[str, Any]
    max_length: int
    type_ids: bool
    dedupe: bool


class TokenizerPool:
    """Processes that tokenize; as many threads as there are processes may call at a time.

    Args:
        terms: What they have to know.
        count: How many; each has its share of the cores.
        here: Does the same in this process, in place of one that has not begun; None to wait.
    """

    def __init__(
        self, terms: WorkerConfig, count: int, here: Callable[[Rows], Encoded] | None = None
    ) -> None:
        threads = max(1, cores() // count)
        self._all = [_Process(terms, threads) for _ in range(count)]
        self._here = here
        # None is this process, whose turn comes last.
        self._idle = Pool([*self._all, *([None] if here else [])], _has_begun)

    def __call__(self, rows: Rows) -> Encoded:
        """As `model.Stages.encode`.

        Raises:
            EngineError: What the process failed with.
            BackendError: It ended by itself.
        """
        with self._idle.one() as process:
            if process is None:
                assert self._here
                return self._here(rows)
            # Only what is tokenized goes there and back: a copy costs as much as the tokens.
            found = process.ask(Rows(None, rows.texts, numbers=rows.numbers))
        return replace(found, rows=rows)

    def close(self) -> None:
        """End them, once nobody calls any more."""
        for process in self._all:
            process.end()


class _Process:
    def __init__(self, terms: WorkerConfig, threads: int) -> None:
        # The library reads it before its first batch, and else takes all cores.
        names = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env={**os.environ, **names},
        )  # fmt: skip
        self._begun = False
        self._failed: dict[str, Any] = {}
        with suppress(OSError):  # one that is gone is found out when it is asked
            self._tell(terms)

    def begun(self) -> bool:
        """Whether it has said so, or is gone: then it may be asked."""
        stdout = self._process.stdout
        assert stdout
        if not self._begun:
            said = select.poll()
            said.register(stdout)
            if said.poll(0):
                with suppress(Exception):  # whatever is wrong, it is when it is asked, too
                    self._failed = pickle.load(stdout) or {}
                self._begun = True
        return self._begun

    def _tell(self, what: object) -> None:
        assert self._process.stdin
        pickle.dump(what, self._process.stdin, protocol=5)
        self._process.stdin.flush()

    def ask(self, rows: Rows) -> Encoded:
        """Its sequences of a window, or the error that it failed with; see `TokenizerPool`."""
        assert self._process.stdout
        if self._failed:
            raise from_dict(self._failed)
        try:
            self._tell(rows)
            found = pickle.load(self._process.stdout)
        except Exception as error:  # a pickle in pieces raises anything
            self._process.kill()
            raise BackendError(
                f"a process that tokenizes ended by itself, exit code {self._process.wait()}",
                "the system may be out of memory; run the same command again to go on, with fewer "
                "--tokenizers",
            ) from error
        if isinstance(found, dict):
            raise from_dict(found)
        assert isinstance(found, Encoded)
        return found

    def end(self) -> None:
        """Have it stop, and wait until it has."""
        assert self._process.stdout
        if not self._begun:
            self._process.kill()
        ended(self._process)
        self._process.stdout.close()


def _has_begun(process: _Process | None) -> bool:
    return process is None or process.begun()


def main() -> None:
    """A process: told its terms and then windows on its input."""
    out = os.fdopen(os.dup(1), "wb")
    # Whatever else prints must not come between.
    os.dup2(2, 1)
    # Of a run that was killed the last window comes in part.
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
        terms: WorkerConfig = pickle.load(sys.stdin.buffer)
        rows: Rows | None = None
        encode: Any = None
        found: object = None
        while True:
            try:
                if rows is None:
                    encode = _encoder(terms)
                else:
                    found = encode(rows)
            except Exception as error:  # whatever it is, the run must hear of it
                found = told(error)
            pickle.dump(found, out, protocol=5)
            out.flush()
            rows = pickle.load(sys.stdin.buffer)


def _encoder(terms: WorkerConfig) -> Any:
    folder = bundle_format.load(terms.folder)
    task, model_config = tasks.find(folder.description.task), folder.description.model_config
    tokenizer = Tokenizer(folder.path / bundle_format.TOKENIZER, terms.max_length)
    options = tasks.settle(task, model_config, terms.options)
    context = tasks.Context(model_config, options, tokenizer, terms.type_ids, stopped=lambda: False)

    def encode(rows: Rows) -> Encoded:
        return replace(task.sequences(rows, context, once=terms.dedupe), rows=_NOTHING)

    return encode
