"""Usage reports that libraries send to their makers: switched off before any of them is imported.

ONNX Runtime (1.31) makes a device id and a database below `~/.cache/Microsoft` as it is imported,
and ten seconds later resolves a host of its maker. huggingface_hub names Python and packages in its
requests, and hf_xet reports each transfer. They read these variables once, so `import engine` sets
them first of all, for its own processes and for those that it starts.

A person who wants the reports says so: `CORPUS_ENGINE_TELEMETRY=1` leaves everything to the
libraries, and a variable that says no keeps its value, such as `ORT_DISABLE_TELEMETRY=0`.
"""

from __future__ import annotations

import os
import sys

ASKED_FOR = "CORPUS_ENGINE_TELEMETRY"
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""Variables that switch reports off: ONNX Runtime's, the hub's libraries', others' by custom."""

_NO = ("0", "false", "no", "off")
_YES = ("1", "true", "yes", "on")  # as ONNX Runtime reads them; it takes others for a no
_RUNTIME = "onnxruntime"
# Modules that were there before this one, and have read their environment.
_imported_before: list[str] = []


def switch_off() -> None:
    """Set the switches, unless the person wants the reports."""
    if _RUNTIME in sys.modules and not _is(SWITCHES[0], _YES):
        _imported_before.append(_RUNTIME)
    if _is(ASKED_FOR, _YES):
        return
    for name in SWITCHES:
        if not _is(name, _NO):
            os.environ[name] = "1"


def wanted() -> str:
    """The setting by which the person asks for ONNX Runtime's reports, or ""."""
    for name, values in ((ASKED_FOR, _YES), (SWITCHES[0], _NO)):
        if _is(name, values):
            return f"{name}={os.environ[name].strip()}"
    return ""


def too_late() -> str:
    """What to tell a person whose program has imported ONNX Runtime before the engine, or ""."""
    if wanted() or not _imported_before:
        return ""
    return (
        f"{_RUNTIME} was imported before engine, and reports to its maker: import engine first, or "
        f"set {SWITCHES[0]}=1"
    )


def state() -> str:
    """Whether libraries report to their makers, and why, in a line."""
    if reason := wanted():
        return f"on ({reason})"
    if problem := too_late():
        return f"on ({problem})"
    return f"off ({', '.join(f'{name}=1' for name in SWITCHES if _is(name, _YES))})"


def _is(name: str, values: tuple[str, ...]) -> bool:
    return os.environ.get(name, "").strip().lower() in values
