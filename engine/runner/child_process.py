"""One process for each GPU, and the lines of JSON that go between them and the run.

    run -> process    {"header": ...} first; then an answer to each `ask`: {"split": ...}, null for
                      no more
    process -> run    {"ask": true}, {"ran": ...}, {"committed": part}, {"counts": ..., "seconds":
                      ..., "rejected": ...}, {"failed": ...}; {"done": true} last

A process that ends without its last line has failed, whatever ended it; one whose input ends stops,
so that none outlives its run. Each has a session of its own: Ctrl-C reaches the run, which tells
them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from engine.errors import BackendError, Stopped, from_dict, told
from engine.runner.threads import ended

Message = Mapping[str, Any]


class Process:
    """One of them.

    Args:
        device: What it computes on; for messages.
        code: Python that begins it.
        header: What it is told first.
    """

    def __init__(self, device: str, code: str, header: Message) -> None:
        self.device, self.over = device, False
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.tell({"header": header})

    def tell(self, message: Message) -> None:
        """Say something; one that is gone is found out when it is heard."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def heard(self) -> Iterator[Message]:
        """What it says, to its end.

        Raises:
            EngineError: What it failed with.
            BackendError: It ended without a word.
        """
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if failed := message.get("failed"):
                raise from_dict(failed)
            self.over = self.over or "done" in message
            yield message
        if not self.over:
            raise BackendError(
                f"the process for {self.device} ended by itself, exit code {self._process.wait()}",
                "the system may be out of memory; run the same command again to go on",
            )

    def end(self) -> None:
        """Have it stop, and wait until it has."""
        ended(self._process)


class ChildChannel:
    """The other end: what a process says and is told."""

    def __init__(self) -> None:
        # Whatever else prints must not come between.
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._in: IO[str] = sys.stdin

    def hear(self) -> Message:
        """The next message.

        Raises:
            Stopped: The run is gone.
        """
        if not (line := self._in.readline()):
            raise Stopped("the run has ended")
        message: Message = json.loads(line)
        return message

    def tell(self, **message: Any) -> None:
        """Say something, from any thread."""
        os.write(self._out, (json.dumps(message, default=str) + "\n").encode())

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Say whether the body, which is all that this process does, came to its end."""
        try:
            yield
        except BaseException as error:  # whatever it is, the run must hear of it
            with suppress(OSError):  # the run is gone, too
                self.tell(failed=told(error))
        else:
            self.tell(done=True)

    def asked(self) -> Iterator[Message]:
        """Ask for splits until there are none."""
        while True:
            self.tell(ask=True)
            if (split := self.hear()["split"]) is None:
                return
            yield split
