"""The command of a process that a run starts beside itself, whatever lies in the working directory.

Python looks for modules in the working directory first where it is given a line of code (`-c`), so
that a file there called engine.py or json.py would take their place. Here it is told not to (`-P`),
gets the places where this process finds modules, the working directory last if at all, and takes
the package `engine` from where this process has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# The package is made of its file, so that no other of its name is looked for.
_START = """\
import sys
sys.path[:] = {places}
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("engine", {file}, submodule_search_locations=[{folder}])
sys.modules["engine"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from {module} import main
main()
"""


def command(module: str) -> list[str]:
    """What starts a process that runs a module's `main`.

    Args:
        module: Its dotted name, within this package.
    """
    code = _START.format(
        places=ascii(module_places(sys.path)),
        file=ascii(str(_PACKAGE / "__init__.py")),
        folder=ascii(str(_PACKAGE)),
        module=module,
    )
    return [sys.executable, "-P", "-c", code]


def module_places(paths: Sequence[str]) -> list[str]:
    """Where such a process looks for modules: where this one does, but in the working directory
    only what it finds nowhere else.

    Args:
        paths: Those of this process, of which "" is the working directory.
    """
    here = _working_directory()
    if not here:
        return [path for path in paths if os.path.isabs(path)]
    places = dict.fromkeys(os.path.abspath(path) for path in paths if path)
    elsewhere = [place for place in places if os.path.realpath(place) != here]
    return [*elsewhere, here] if "" in paths or len(elsewhere) < len(places) else elsewhere


def _working_directory() -> str:
    """Its path, or "" where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
