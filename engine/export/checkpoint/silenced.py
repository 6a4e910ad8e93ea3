"""Keeps other libraries' messages out of this program's output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress warnings, log lines, progress bars and prints of torch, transformers and Optimum.

    What matters in them is checked by the exporter, and is raised or becomes a note of the bundle.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    hub_bars = not are_progress_bars_disabled()
    bars = transformers_logging.is_progress_bar_enabled()
    before = logging.root.manager.disable
    try:
        disable_progress_bars()
        transformers_logging.disable_progress_bar()
        logging.disable(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if hub_bars:
            enable_progress_bars()
        if bars:
            transformers_logging.enable_progress_bar()
