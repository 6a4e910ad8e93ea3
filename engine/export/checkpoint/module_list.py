"""modules.json: which modules a sentence-transformers checkpoint has, in order, and where.

Versions 2 to 6 write it. Up to 5.3 the types are `sentence_transformers.models.Pooling` and the
like; from 5.4 on `sentence_transformers.sentence_transformer.modules.pooling.Pooling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.errors import ExportError

FILE = "modules.json"
# The routes of a Router; versions before 5 call it Asym and its file config.json.
ROUTES = ("router_config.json", "config.json")
_ROUTERS = ("Router", "Asym")
_AGAIN = "fetch the checkpoint once more"


@dataclass(frozen=True)
class Module:
    """One module.

    Attributes:
        kind: Its class, such as "Dense".
        path: Its folder, such as "2_Dense"; "" for the checkpoint's own.
        package: What stands before the class, such as "sentence_transformers.models".
    """

    kind: str
    path: str
    package: str

    @property
    def legacy(self) -> bool:
        """Whether a version before 5.4 wrote it."""
        return self.package.startswith("sentence_transformers.models")

    def file(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.path}/{name}" if self.path else name


def listed(checkpoint: str, read_json: Callable[[str], Any]) -> tuple[Module, ...]:
    """The modules; a router whose routes are all the same is replaced by what it routes to.

    Args:
        checkpoint: Its name, for messages.
        read_json: The content of one of its files, {} where there is none.

    Returns:
        The modules in order; none where there is no modules.json.

    Raises:
        ExportError: modules.json is damaged, or needs code of the repository or of another library,
            or a router has several routes.
    """
    content = read_json(FILE)
    if content == []:
        raise ExportError(f"{checkpoint}: {FILE} lists no module", _AGAIN)
    try:
        modules = [_module(checkpoint, str(m["type"]), str(m["path"])) for m in content]
    except (TypeError, KeyError) as error:
        raise ExportError(
            f"{checkpoint}: {FILE} does not list modules with type and path", _AGAIN
        ) from error
    return tuple(
        one
        for place, module in enumerate(modules)
        for one in _routed(checkpoint, module, place, read_json)
    )


def _module(checkpoint: str, kind: str, path: str) -> Module:
    package, _, name = kind.rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise ExportError(
            f"{checkpoint}: {FILE} asks for {kind}, which is code of the repository or of another "
            "library",
            "the engine does not execute code from model repositories; take a checkpoint whose "
            "modules are part of sentence-transformers",
        )
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ExportError(
            f"{checkpoint}: {FILE} names {path!r}, which is not the folder of a layer",
            "give a checkpoint that sentence-transformers saved",
        )
    return Module(name, "/".join(parts), package)


def _routed(
    checkpoint: str, module: Module, place: int, read_json: Callable[[str], Any]
) -> Iterator[Module]:
    """The module itself, or those behind a router."""
    if module.kind not in _ROUTERS:
        yield module
        return
    file = next((name for name in ROUTES if "structure" in read_json(module.file(name))), "")
    routes = read_json(module.file(file)) if file else {}
    try:
        structure: Mapping[str, list[str]] = routes["structure"]
        different = {tuple(names) for names in structure.values()}
        types = {name: str(routes["types"][name]) for names in different for name in names}
    except (TypeError, KeyError, AttributeError) as error:
        where = module.file(ROUTES[0])
        raise ExportError(
            f"{checkpoint}: the routes of {module.kind} cannot be read from {where}", _AGAIN
        ) from error
    if len(different) != 1:
        raise ExportError(
            f"{checkpoint}: {FILE} has a {module.kind} with the routes {', '.join(structure)}, "
            "which compute different embeddings; supported is one route",
            "save one route as a checkpoint of its own, in Python: m = list(model); "
            f"SentenceTransformer(modules=[*m[:{place}], *m[{place}].sub_modules[ROUTE], "
            f"*m[{place + 1}:]]).save_pretrained(FOLDER)",
        )
    for name in different.pop():
        # Versions before 5 name the class's module only.
        yield _module(checkpoint, types[name], module.file(name))
