"""JSON of files that anybody may have written: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes | bytearray, **hooks: Any) -> Any:
    """The value of a JSON text; `hooks` as for `json.loads`.

    Raises:
        ValueError: It is no JSON, or is nested too deeply for Python.
    """
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
