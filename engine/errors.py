"""Every error that the engine raises on purpose.

    EngineError                 exit 1
    ├── SettingsError           exit 2   a setting is unknown, malformed or contradicts another
    │   └── ColumnError                  a setting names a column that the input does not have
    ├── InputError              exit 1   a file is missing, unreadable or not what its name says
    │   ├── RowError                     a row is bad, and the run stops at the first one
    │   └── TooManyRejects               more bad rows than --max-rejects allows
    ├── BundleError             exit 1   a folder is not a bundle, or its bytes have changed
    ├── ExportError             exit 1   a checkpoint cannot become a bundle, or failed its test
    ├── BackendError            exit 1   the inference runtime refused or broke
    │   ├── DeviceError                  the requested device cannot be used
    │   └── OutOfMemory                  a batch does not fit into the device's memory
    ├── MissingDependency       exit 1   an extra is not installed; the hint is the pip line
    ├── OutputError             exit 1   the output cannot be written or is in use
    │   └── OtherRunError       exit 2   it holds a run of other settings or inputs
    ├── Stalled                 exit 1   a stage made no progress for --stall-timeout seconds
    └── Stopped                 exit 75  interrupted; the same command goes on where it stopped

A message says what and where; `hint` says what to do about it and ends the printed form. Both are
one line each: names from outside are escaped here (`printable`), and web addresses lose what may be
a secret, so that no caller has to. Messages
never contain the text of a row. Exceptions of libraries are translated in one place each: those of
ONNX Runtime in `runtime/backend.py`, those of pyarrow and the file system in `data/`.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.library_errors import describe_bug
from engine.printable import printable, without_secrets

_LONGEST_MESSAGE = 4096
# Characters of each text of an error that travels between processes.
_LONGEST = 1024


class EngineError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong and where.
        hint: What to do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(without_secrets(message), _LONGEST_MESSAGE)
        self.hint = printable(without_secrets(hint), _LONGEST_MESSAGE)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class SettingsError(EngineError):
    exit_code = 2


class ColumnError(SettingsError):
    pass


class InputError(EngineError):
    pass


class RowError(InputError):
    """One bad row.

    Args:
        path: The input file.
        row: Row number in that file, from 0; in JSONL the line's index.
        code: A key of `data.windows.REASONS`.
        message: The reason in words, without the row's text.
        column: The column at fault, or "".
        expected, found: The type that it should have and the one it has, or "".
    """

    def __init__(
        self,
        path: str,
        row: int,
        code: str,
        message: str,
        column: str = "",
        expected: str = "",
        found: str = "",
    ) -> None:
        details = [
            *([f"column {column!r}"] if column else []),
            *([f"expected {expected}"] if expected else []),
            *([f"found {found}"] if found else []),
        ]
        where = f" ({', '.join(details)})" if details else ""
        super().__init__(
            f"{path}: row {row} (counted from 0): {message}{where}",
            "fix the row, or run with --on-error reject to set bad rows aside and go on",
        )
        self.path, self.row, self.code = path, row, code


class TooManyRejects(InputError):
    pass


class BundleError(EngineError):
    pass


class ExportError(EngineError):
    pass


class BackendError(EngineError):
    pass


class DeviceError(BackendError):
    pass


class OutOfMemory(BackendError):
    pass


class MissingDependency(EngineError):
    pass


class OutputError(EngineError):
    pass


class OtherRunError(OutputError):
    exit_code = 2


class Stalled(EngineError):
    pass


class Stopped(EngineError):
    exit_code = 75


def to_dict(error: BaseException) -> dict[str, str | int]:
    """An error as plain values, to travel between processes; a class of another module as that of
    this tree which it is of, and a bug of ours as a BackendError that names its class."""
    if not isinstance(error, EngineError):
        message, hint = describe_bug(error)
        return {"kind": "BackendError", "message": message[:_LONGEST], "hint": hint}
    fields = {n: v for n, v in vars(error).items() if isinstance(v, (str, int))}
    cut = {n: v[:_LONGEST] if isinstance(v, str) else v for n, v in fields.items()}
    kind = next(kind for kind in type(error).__mro__ if globals().get(kind.__name__) is kind)
    return {"kind": kind.__name__, **cut}


def from_dict(fields: Mapping[str, str | int]) -> EngineError:
    """The error that `to_dict` described."""
    kind: type[EngineError] = globals().get(str(fields["kind"]), BackendError)
    error = kind.__new__(kind)
    EngineError.__init__(error, str(fields["message"]), str(fields.get("hint", "")))
    vars(error).update({n: v for n, v in fields.items() if n != "kind"})
    return error
