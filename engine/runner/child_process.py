"""Processes of a run, and the messages between it and them.

The run starts a module's `main` in a process of its own (`ChildProcess`), tells it things and hears
what it says; `main` does the same from the other end (`ChildChannel`). Messages are pickles, which
copy large arrays at the speed of memory, through pipes that nobody else can write to.

A process ends when its input does, so that none outlives its run. One whose output ends when a
message is due has failed, whatever ended it. Each has a session of its own: Ctrl-C reaches the run,
which ends its processes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from engine.core.helper_process import command
from engine.core.system_calls import NEW_GROUP, Incoming
from engine.errors import BackendError, Stopped, from_dict, to_dict

PATIENCE_SECONDS = 20.0
STOP_SECONDS = 1.0
"""How long a stopped run waits for its processes, whose journals keep what they have computed."""


@dataclass(frozen=True)
class _Failure:
    """A message that `hear` raises as an error."""

    fields: Mapping[str, str | int]


class ChildProcess:
    """A process, seen from the run.

    Args:
        module: The module whose `main` it runs.
        settings: What it is told first.
        name: What it is called in messages, such as "the process for cuda:1".
        hint: How to go on should it end by itself, as the system ends one for want of memory.
        env: Changes to the environment.
    """

    def __init__(
        self, module: str, settings: object, *, name: str, hint: str, env: Mapping[str, str] = {}
    ) -> None:
        self._name, self._hint = name, hint
        self._process = subprocess.Popen(
            command(module),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            creationflags=NEW_GROUP, env={**os.environ, **env},
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._stdin = self._process.stdin
        self._incoming = Incoming(self._process.stdout.fileno())
        self._messages = self._incoming.file()
        self.tell(settings)

    def tell(self, message: object) -> None:
        """Send a message; whether the process is gone shows in `hear`."""
        with suppress(OSError):
            pickle.dump(message, self._stdin, protocol=5)
            self._stdin.flush()

    def has_message(self) -> bool:
        """Whether `hear` would return at once, be it because the process is gone."""
        return self._incoming.has_come()

    def hear(self) -> Any:
        """The next message, waited for.

        Raises:
            EngineError: What the process failed with.
            BackendError: The process ended by itself.
        """
        try:
            message = pickle.load(self._messages)
        except Exception as error:  # half a pickle raises anything
            self.kill()
            raise BackendError(
                f"{self._name} ended by itself, exit code {self._process.wait()}", self._hint
            ) from error
        if isinstance(message, _Failure):
            raise from_dict(message.fields)
        return message

    def messages(self) -> Iterator[Any]:
        """The messages up to None, which says that the process has done its work; see `hear`."""
        while (message := self.hear()) is not None:
            yield message

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def close_input(self) -> None:
        """Have the process end by itself."""
        with suppress(OSError):  # it may be gone, with a message not yet written
            self._stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended; one that does not in time is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()
        assert self._process.stdout
        self._process.stdout.close()


def end(processes: Sequence[ChildProcess], seconds: float = PATIENCE_SECONDS) -> None:
    """End processes and wait until all of them have; after so many seconds they are killed."""
    for process in processes:
        process.close_input()
    end = time.monotonic() + seconds
    for process in processes:
        process.wait(max(0.0, end - time.monotonic()))


class ChildChannel:
    """The run, seen from a process."""

    def __init__(self) -> None:
        # Whatever else prints must not come between the messages.
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._incoming = Incoming(0)
        self._messages = self._incoming.file()

    def hear(self) -> Any:
        """The next message.

        Raises:
            Stopped: The run is gone.
        """
        try:
            return pickle.load(self._messages)
        except (EOFError, pickle.UnpicklingError) as error:  # a killed run leaves half a message
            raise Stopped("the run has ended") from error

    def tell(self, message: object) -> None:
        """Send a message, from any thread.

        Raises:
            Stopped: The run is gone, or has closed this process's input.
        """
        try:
            with self._lock:
                if self._incoming.has_ended():
                    raise Stopped("the run has ended")
                pickle.dump(message, self._out, protocol=5)
                self._out.flush()
        except OSError as error:
            raise Stopped("the run has ended") from error

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the run what the body fails with, and go on; nothing where the run is gone."""
        try:
            yield
        except Stopped:
            return
        except BaseException as error:  # whatever it is, the run must hear of it
            with suppress(Stopped):
                self.tell(_Failure(to_dict(error)))
