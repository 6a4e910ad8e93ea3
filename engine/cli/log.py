"""What a run tells machines: a log of lines or JSON, and a text file for Prometheus."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from engine.cli import terminal
from engine.core.settings import check_choice
from engine.core.telemetry import Progress
from engine.errors import EngineError, OutputError, SettingsError
from engine.printable import printable, printable_json, without_secrets

FORMATS = ("text", "json")
SECONDS = 10.0
"""Between two lines of progress, and two states of the file of metrics."""


class Log:
    """Writes an event as a line to a file, or to standard error for lack of one.

    Args:
        format: One of `FORMATS`.
        file: Where to; None for standard error.
    """

    def __init__(self, format: str, file: TextIO | None) -> None:
        self._json, self._file = format == "json", file

    def write(self, event: str, message: str, **facts: object) -> None:
        """Write an event."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        message = without_secrets(message)
        if self._json:
            kept = {n: without_secrets(v) if isinstance(v, str) else v for n, v in facts.items()}
            line = printable_json({"time": now, "event": event, "message": message, **kept})
        else:
            line = printable(f"{now} {message}")
        if self._file:
            self._file.write(f"{line}\n")
            self._file.flush()
        else:
            terminal.tell(line)

    def progress(self, progress: Progress) -> None:
        """Write how far a run is."""
        facts = dataclasses.asdict(progress) | {"seconds_left": progress.seconds_left}
        self.write("progress", f"{progress.done:4.0%}  {progress}", **facts)


@contextlib.contextmanager
def logging(file: str | None, format: str) -> Iterator[Log | None]:
    """The log that was asked for, or None; it also has the error that ends the run.

    Raises:
        SettingsError: The format is unknown.
        OutputError: The file cannot be written.
    """
    check_choice("--log-format", format, FORMATS)
    if not file and format == "text":
        yield None  # the lines of progress are text already
        return
    with contextlib.ExitStack() as stack:
        log = Log(format, stack.enter_context(_opened(file)) if file else None)
        try:
            yield log
        except EngineError as error:
            if file:
                log.write("error", str(error).replace("\n", "; "), exit_code=error.exit_code)
            raise


def _opened(file: str) -> TextIO:
    try:
        return open(file, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{file}: {error.strerror}", "name a file that can be written") from error


def every(seconds: float, update: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """A callback that passes on at most one progress in this time."""
    last = time.monotonic()

    def pass_on(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            update(progress)

    return pass_on


def write_metrics(path: str, values: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Write a text file for node exporter's textfile collector, under its name at once.

    Args:
        path: Ends in .prom, or the collector does not read it.
        values: By metric, without the prefix engine_run_.
        labels: Of each metric.

    Raises:
        SettingsError: The name has another ending.
        OutputError: The file cannot be written.
    """
    if not path.endswith(".prom"):
        raise SettingsError(f"--metrics-file is {path}", "a file that ends in .prom")
    named = ",".join(f"{name}={json.dumps(text)}" for name, text in labels.items())
    lines = [
        line
        for name, value in values.items()
        for line in (f"# TYPE engine_run_{name} gauge", f"engine_run_{name}{{{named}}} {value:g}")
    ]
    temporary = Path(f"{path}.new")
    try:
        temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", "name a file that can be written") from error


def progress_metrics(progress: Progress) -> dict[str, float]:
    """The metrics of a run that goes on; times are in seconds."""
    return {
        "running": 1,
        "done_ratio": progress.done,
        "rows": progress.rows,
        "rows_rejected": progress.rejects,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "seconds_left": progress.seconds_left or 0,
        "stuck": bool(progress.stuck),
        "updated_timestamp_seconds": int(time.time()),
    }
