"""Offline batch inference for pipeline-class transformers: a corpus in, Arrow out.

    import engine
    engine.run("models/t5-small", ["corpus/*.parquet"], "out", text=["text"])
    engine.Bundle.load("models/t5-small")(["The house is wonderful."])

These names are public. Nothing heavy is imported until one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import errors
from engine.core import vendor_telemetry
from engine.errors import EngineError
from engine.version import __version__

vendor_telemetry.switch_off()

if TYPE_CHECKING:
    from engine.answering.answered import Answered
    from engine.answering.table_columns import schema
    from engine.comparison import Comparison, compare
    from engine.core.config import RunConfig
    from engine.export.cache import bundle_for
    from engine.pipeline import Bundle
    from engine.reporting import report
    from engine.runner.coordinator import run
    from engine.runner.preview import Preview, plan
    from engine.runner.report import Report
    from engine.runner.results import open, read
    from engine.runner.split_values import splits

__all__ = [
    "Answered",
    "Bundle",
    "Comparison",
    "EngineError",
    "Preview",
    "Report",
    "RunConfig",
    "__version__",
    "bundle_for",
    "compare",
    "errors",
    "open",
    "plan",
    "read",
    "report",
    "run",
    "schema",
    "splits",
]

_LATER = {
    "Answered": "engine.answering.answered",
    "Bundle": "engine.pipeline",
    "Comparison": "engine.comparison",
    "Preview": "engine.runner.preview",
    "Report": "engine.runner.report",
    "RunConfig": "engine.core.config",
    "bundle_for": "engine.export.cache",
    "compare": "engine.comparison",
    "open": "engine.runner.results",
    "plan": "engine.runner.preview",
    "read": "engine.runner.results",
    "report": "engine.reporting",
    "run": "engine.runner.coordinator",
    "schema": "engine.answering.table_columns",
    "splits": "engine.runner.split_values",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__") and name.endswith("__"))
    return sorted({*__all__, *own})
