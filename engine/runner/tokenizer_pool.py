"""Windows tokenized in processes of their own, since a GPU reads more tokens than one can make.

Handing tokens over holds the interpreter: 0.1 to 0.17 µs a token, however many cores find them, so
that one process gives 6 to 9 million a second at most. Each process here has a window at a time and
a share of the cores, and gives back arrays. Until the first process is ready, which takes a second
or two, the run tokenizes as well.

    run -> process    TokenizerSettings first; then a window of texts each time
    process -> run    None when it is ready; then a window's sequences, or the error that it failed
                      with
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import tasks
from engine.bundle import format as bundle_format
from engine.bundle.tokenizer import Tokenizer
from engine.core.hardware import cores
from engine.core.types import Encoded, Rows
from engine.errors import EngineError
from engine.runner.child_process import ChildChannel, ChildProcess, end
from engine.runner.threads import ResourcePool

_NOTHING = Rows(None, ())


@dataclass(frozen=True)
class TokenizerSettings:
    """A bundle's folder, and what its `Stages` are bound to."""

    folder: Path
    options: Mapping[str, Any]
    max_length: int
    type_ids: bool
    dedupe: bool
    side: str = "right"


class TokenizerPool:
    """Processes that tokenize; as many threads as there are processes may call at a time.

    Args:
        settings: What they have to know.
        count: How many; each has its share of the cores.
        local: Does the same in this process while none of them is ready; None to wait.
    """

    def __init__(
        self,
        settings: TokenizerSettings,
        count: int,
        local: Callable[[Rows], Encoded] | None = None,
    ) -> None:
        threads = max(1, cores() // count)
        self._processes = [_TokenizerProcess(settings, threads) for _ in range(count)]
        self._local = local
        # None stands for this process, whose turn comes last.
        self._pool = ResourcePool([*self._processes, *([None] if local else [])], _is_ready)

    def __call__(self, rows: Rows) -> Encoded:
        """As `Stages.encode`.

        Raises:
            EngineError: What the process failed with.
            BackendError: It ended by itself.
        """
        with self._pool.acquire() as process:
            if process is None:
                assert self._local
                return self._local(rows)
            # Only what is tokenized goes there and back: a copy costs as much as the tokens.
            encoded = process.encode(Rows(None, rows.texts, numbers=rows.numbers))
        return replace(encoded, rows=rows)

    def kill(self) -> None:
        """End the processes now, whatever they do; whoever waits for one gets an error."""
        for process in self._processes:
            process.child.kill()

    def close(self) -> None:
        """End the processes, once nobody calls any more."""
        for process in self._processes:
            if not process.ready:
                process.child.kill()
        end([process.child for process in self._processes])


class _TokenizerProcess:
    def __init__(self, settings: TokenizerSettings, threads: int) -> None:
        self.ready = False
        self._error: EngineError | None = None
        self.child = ChildProcess(
            __name__,
            settings,
            name="a process that tokenizes",
            hint="the system may be out of memory; run the same command again to go on, with fewer "
            "--tokenizers",
            # The library reads it before its first batch, and takes all cores otherwise.
            env={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"},
        )

    def is_ready(self) -> bool:
        """Whether it has said so, or has failed, which `encode` will raise."""
        if not self.ready and self.child.has_message():
            try:
                self.child.hear()
            except EngineError as error:
                self._error = error
            self.ready = True
        return self.ready

    def encode(self, rows: Rows) -> Encoded:
        """The sequences of a window; raises what `TokenizerPool` says."""
        if self._error:
            raise self._error
        self.child.tell(rows)
        encoded = self.child.hear()
        assert isinstance(encoded, Encoded)
        return encoded


def _is_ready(process: _TokenizerProcess | None) -> bool:
    return process is None or process.is_ready()


def main() -> None:
    """A process of the pool."""
    channel = ChildChannel()
    with channel.reporting():
        encode = _encoder(channel.hear())
        channel.tell(None)
        while True:
            rows = channel.hear()
            with channel.reporting():
                channel.tell(encode(rows))


def _encoder(settings: TokenizerSettings) -> Callable[[Rows], Encoded]:
    folder = bundle_format.load(settings.folder)
    task, model_config = tasks.of_bundle(folder), folder.description.model_config
    file = folder.path / bundle_format.TOKENIZER
    digest = folder.digest(bundle_format.TOKENIZER)
    tokenizer = Tokenizer(file, settings.max_length, settings.side, digest)
    options = tasks.resolve_options(task, model_config, settings.options)
    context = tasks.Context(
        model_config, options, tokenizer, settings.type_ids, stopped=lambda: False
    )

    def encode(rows: Rows) -> Encoded:
        return replace(task.encode_window(rows, context, dedupe=settings.dedupe), rows=_NOTHING)

    return encode
