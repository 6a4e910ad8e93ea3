"""The engine of another interpreter, as a child of this process.

It is in the group and the session of this process, so that whoever ends the group ends it too. It
also ends when its standard input does, and so whenever this process does, whatever ended that.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from engine.errors import BackendError, EngineError, MissingDependency, SettingsError, Stopped

KILL_SECONDS = 4.0
"""From the request to end until it is killed. Airflow kills a task a second later."""
_HINT = "run the same command again to go on"
_LINES = 20
# -P: no `engine.py` of the working directory may stand for the package.
_OPTIONS = ("-P", "-c")
_START = """\
import os, signal, threading
def end_with_input():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_input, daemon=True).start()
from engine.cli import main
main()
"""


class OutsideProcess:
    """One command of the engine in another interpreter.

    Args:
        python: The interpreter, which has an engine of its own.
        arguments: Of the command line, such as ["run", "bundle", "corpus", "-o", "out"].
    """

    def __init__(self, python: str, arguments: Sequence[str]) -> None:
        self.python, self._arguments = os.path.expanduser(python), tuple(arguments)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self, tell: Callable[[str], None], accepted: Sequence[int] = (0,)) -> str:
        """Run the command; returns what it printed.

        Args:
            tell: Called with each line of standard error, as it comes.
            accepted: Exit codes that are no failure.

        Raises:
            SettingsError: Its exit code is 2, which says that it cannot succeed as it was given.
            Stopped: It was stopped, and the same command goes on.
            EngineError: It failed, with what it said.
        """
        lines: list[str] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
            process = self._process = self._started(printed)
            try:
                if self._stopped:  # before there was anything to stop
                    self._end(process)
                code = self._follow(process, tell, lines)
            except BaseException:  # of a signal handler, such as one for a timeout
                self.stop()
                process.wait()
                raise
            finally:
                self._close(process)
            if code not in accepted:
                raise self._error(code, lines)
            printed.seek(0)
            return printed.read()

    def stop(self) -> None:
        """Ask it to end, and have it killed where it has not in `KILL_SECONDS`. Returns at once,
        and may be called from a signal handler."""
        if not self._stopped:
            self._stopped = True
            if self._process is not None:
                self._end(self._process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        timer = threading.Timer(KILL_SECONDS, process.kill)
        timer.daemon = True
        timer.start()

    def _started(self, printed: IO[str]) -> subprocess.Popen[str]:
        command = [self.python, *_OPTIONS, _START, *self._arguments]
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise SettingsError(
                    f"{len(self._arguments):,} arguments are too many for a command line",
                    "name a folder or a glob in place of the files",
                ) from error
            raise SettingsError(
                f"python is {self.python!r}, which cannot be run: {error.strerror}",
                "the path of an interpreter that has the engine, such as /opt/engine/bin/python",
            ) from error

    def _follow(
        self, process: subprocess.Popen[str], tell: Callable[[str], None], lines: list[str]
    ) -> int:
        """Tell its lines, keep the last, and return its exit code."""
        assert process.stderr
        for line in process.stderr:
            tell(text := line.rstrip())
            lines.append(text)
            del lines[:-_LINES]
        return process.wait()

    def _close(self, process: subprocess.Popen[str]) -> None:
        for stream in (process.stdin, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _error(self, code: int, lines: Sequence[str]) -> EngineError:
        """The error for an exit code, with the message and the hint that it printed."""
        if any("No module named 'engine'" in line for line in lines):
            return MissingDependency(
                f"{self.python}: the engine is not installed there",
                f'{self.python} -m pip install "corpus-engine[cpu]"',
            )
        message, hint = _said(lines)
        if code == Stopped.exit_code or (code < 0 and self._stopped):
            return Stopped(message or "stopped", hint or _HINT)
        if code < 0:
            return BackendError(
                f"the engine of {self.python} was ended by signal {-code}, as the system does for "
                "want of memory" * (code == -9),
                _HINT,
            )
        message = message or " ".join(lines) or f"exit code {code}"
        return (SettingsError if code == SettingsError.exit_code else EngineError)(message, hint)


def _said(lines: Sequence[str]) -> tuple[str, str]:
    """The last message and its hint among the lines of standard error; "" for none."""
    message = hint = ""
    for line in lines:
        if line.startswith("error: "):
            message, hint = line.removeprefix("error: "), ""
        elif line.startswith("hint: "):
            hint = line.removeprefix("hint: ")
    return message, hint
