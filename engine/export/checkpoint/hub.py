"""Where a checkpoint's files are: a hub id or a local folder becomes a folder on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core import json_text
from engine.core.suggestions import path_meant
from engine.errors import ExportError, SettingsError
from engine.export.checkpoint import module_list, pickles, subfolders, weight_files
from engine.export.checkpoint.hub_errors import first_line, hub_errors
from engine.export.checkpoint.module_list import Module
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.weight_files import PICKLES, SAFETENSORS

# Exactly what an export reads. Nothing else of a repository is downloaded: no code, no other
# framework's weights, no other precision's.
DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "spm.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    *module_list.ROUTES,
    "[0-9]*_*/config.json",
)
# sentence-transformers' modules with weights of their own, each in a folder of its own.
LAYERS = ("Dense", "LayerNorm")
TOKENIZERS = (
    "tokenizer.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)

COMMIT = re.compile(r"[0-9a-f]{40}")
# A commit's beginning, as transformers pins its pipelines' defaults.
_HASH = re.compile(r"[0-9a-f]{7,40}")
_FOREIGN_CODE = (
    "the engine does not execute code from model repositories; "
    "take a checkpoint whose architecture is part of transformers"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are on this machine and have been checked.

    Attributes:
        folder: Where config.json, tokenizer and weights are, in the Hugging Face layout.
        name: The hub id, or the folder's own name.
        commit: The hub's 40-hex commit, "" for a folder.
        requested: The revision that the user named, "" for none.
        config: The content of config.json.
        pickled: Whether the weights are pickles (`.bin`), which was allowed.
        shares_head: Whether a T5's head is its embedding if the weights have no head.
        notes: What the user should know.
        top: Where modules.json is, if the transformer has a folder of its own.
        subfolder: The folder of the repository that the checkpoint is in, "" for its top.
    """

    folder: Path
    name: str
    commit: str
    requested: str
    config: Mapping[str, Any]
    pickled: bool
    notes: tuple[str, ...] = ()
    shares_head: bool = False
    top: Path | None = None
    subfolder: str = ""

    def read_json(self, name: str) -> Any:
        """The content of one of the transformer's JSON files; an empty dict where there is no such
        file.

        Raises:
            ExportError: The file is not JSON.
        """
        return _read_json(self.folder / name)

    def read_top_json(self, name: str) -> Any:
        """The same for a file whose path begins where modules.json is."""
        return _read_json((self.top or self.folder) / name)

    @property
    def modules(self) -> tuple[Module, ...]:
        """sentence-transformers' modules, in order.

        Raises:
            ExportError: See `module_list.listed`.
        """
        return module_list.listed(self.name, self.read_top_json)

    def layer_weights(self, path: str) -> Path:
        """The weights of the layer in the folder `path`: safetensors where there are some."""
        folder = (self.top or self.folder) / path
        safe = folder / SAFETENSORS.whole
        return safe if safe.is_file() else folder / PICKLES.whole

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files with the weights, in the order of their names, those of layers last."""
        kind = PICKLES if self.pickled else SAFETENSORS
        layers = (self.layer_weights(path) for path in _layers(self))
        return (*weight_files.stored(self.folder, kind), *layers)

    def source(self) -> dict[str, str]:
        """Where a bundle came from, as `bundle.Description.source` has it."""
        inner = {"subfolder": self.subfolder} if self.subfolder else {}
        return {
            "model": self.name,
            **inner,
            "revision": self.commit,
            "requested_revision": self.requested,
            "weights_sha256": self._weights_sha256(),
        }

    def _weights_sha256(self) -> str:
        """Hex digest of the weights; of the shards' bytes one after the other if there are more."""
        digest = hashlib.sha256()
        for file in self.weights:
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()


def resolve(
    model: str, revision: str | None, progress: Callable[[str], None], subfolder: str = ""
) -> Checkpoint:
    """Find a checkpoint on this machine or on the hub; all but its weights is downloaded.

    Args:
        model: A folder in the Hugging Face layout, or a hub id such as google-t5/t5-small.
        revision: A commit, branch or tag of the hub.
        subfolder: The folder in `model` that holds the checkpoint, such as "unsupervised/base".

    Raises:
        ExportError: It is not there, not reachable, incomplete, or needs the repository's own code.
        SettingsError: A revision was given for a local folder, or the subfolder is no path below.
    """
    folder, subfolder = Path(model).expanduser(), subfolders.checked(subfolder)
    if folder.is_dir():
        if revision is not None:
            raise SettingsError(
                f"revision: {model} is a local folder, which has no revisions",
                "leave --revision out, or give a hub id",
            )
        folder = folder.resolve()
        subfolders.check_there(model, subfolder, folder)
        inner = folder / subfolder
        return _described(Checkpoint(inner, folder.name, "", "", {}, False, subfolder=subfolder))
    _check_hub_id(model, folder)
    progress(f"looking up {model} on the hub")
    top = _snapshot(model, revision, subfolders.below(subfolder, DESCRIPTIONS))
    notes = _revision_notes(model, revision, top.name)
    checkpoint = Checkpoint(
        top / subfolder, model, top.name, revision or "", {}, False, notes, subfolder=subfolder
    )
    subfolders.check_there(model, subfolder, top, top.name)
    _fetch_descriptions(checkpoint)
    return _described(checkpoint)


def with_weights(
    checkpoint: Checkpoint, allow_pickle: bool, progress: Callable[[str], None]
) -> Checkpoint:
    """The same checkpoint with its weights on this machine.

    Args:
        allow_pickle: Accept `.bin` weights where there are no safetensors; torch's weights-only
            unpickler reads them (`pickles`).

    Raises:
        ExportError: There are none, some are missing, or there are only pickled ones and that is
            not allowed, or a pickle is more than weights.
    """
    folder = checkpoint.folder
    if checkpoint.commit:
        progress(f"fetching the weights of {checkpoint.name}")
        _fetch_safetensors(checkpoint)
        if not _matching(folder, SAFETENSORS.patterns):
            _fetch_pickles(checkpoint, _at_transformer(checkpoint, PICKLES.patterns), allow_pickle)
    for path in _layers(checkpoint):
        _check_layer(checkpoint, path, allow_pickle)
    if _matching(folder, SAFETENSORS.patterns):
        weight_files.check_whole(checkpoint.name, folder, SAFETENSORS)
    else:
        pickled = _matching(folder, (PICKLES.whole, PICKLES.shards))
        if not pickled:
            raise _missing(checkpoint, "weights (model.safetensors)")
        if not allow_pickle:
            raise _pickle_refused(checkpoint.name, pickled[0].name)
        weight_files.check_whole(checkpoint.name, folder, PICKLES)
        checkpoint = dataclasses.replace(checkpoint, pickled=True)
    for file in checkpoint.weights:
        if file.suffix == PICKLES.ending:
            pickles.check(file, checkpoint.name)
    return checkpoint


def _fetch_safetensors(checkpoint: Checkpoint) -> None:
    """Download the weights of the transformer and its layers, then shards with other names."""
    layers = (f"{path}/{SAFETENSORS.whole}" for path in _layers(checkpoint))
    _fetch(checkpoint, (*_at_transformer(checkpoint, SAFETENSORS.patterns), *layers))
    stored = weight_files.stored(checkpoint.folder, SAFETENSORS)
    if others := tuple(file.name for file in stored if not file.is_file()):
        _fetch(checkpoint, _at_transformer(checkpoint, others))


def pinned(model: str, revision: str | None, progress: Callable[[str], None]) -> str:
    """The 40-hex commit that a revision of a hub id now points to.

    Raises:
        ExportError: The hub id or the revision is unknown, or the hub cannot be reached.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    _check_hub_id(model, Path(model).expanduser())
    progress(f"looking up {model} on the hub")
    return _snapshot(model, revision, DESCRIPTIONS[:1]).name


def files(folder: Path) -> tuple[Path, ...]:
    """What an export reads of a checkpoint's folder, in the order of the names."""
    patterns = (*DESCRIPTIONS, *SAFETENSORS.patterns, *PICKLES.patterns)
    modules = module_list.listed(folder.name, lambda name: _read_json(folder / name))
    folders = {folder, *(folder / module.path for module in modules)}
    return tuple(sorted({file for one in folders for file in _matching(one, patterns)}))


def _layers(checkpoint: Checkpoint) -> list[str]:
    return [module.path for module in checkpoint.modules if module.kind in LAYERS]


def _fetch_descriptions(checkpoint: Checkpoint) -> None:
    """Download what describes modules in folders that `DESCRIPTIONS` does not name."""
    paths = {
        module.path
        for module in checkpoint.modules
        if module.kind == "Transformer" or not _fits(module.file("config.json"), DESCRIPTIONS)
    }
    patterns = tuple(f"{path}/{name}" for path in sorted(paths - {""}) for name in DESCRIPTIONS)
    if patterns:
        _fetch(checkpoint, patterns)


def _at_transformer(checkpoint: Checkpoint, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The same patterns, of files in the transformer's folder."""
    if checkpoint.top is None:
        return patterns
    path = checkpoint.folder.relative_to(checkpoint.top).as_posix()
    return tuple(f"{path}/{pattern}" for pattern in patterns)


def _check_layer(checkpoint: Checkpoint, path: str, allow_pickle: bool) -> None:
    """Check that a layer has weights, and pickled ones only where they are allowed."""
    pickle = f"{path}/{PICKLES.whole}"
    if checkpoint.commit and not checkpoint.layer_weights(path).is_file():
        _fetch_pickles(checkpoint, (pickle,), allow_pickle)
    file = checkpoint.layer_weights(path)
    if not file.is_file():
        raise _missing(checkpoint, f"the weights of a layer ({path}/{SAFETENSORS.whole})")
    if file.name == PICKLES.whole and not allow_pickle:
        raise _pickle_refused(checkpoint.name, pickle)


def _check_hub_id(model: str, path: Path) -> None:
    if path.exists():
        raise ExportError(
            f"{model}: a file, not a checkpoint", "give the folder with config.json in it"
        )
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        raise ExportError(
            f"{model}: no such folder",
            f"{path_meant(path)}give a folder with config.json in it, or a hub id such as "
            "google-t5/t5-small",
        )


def _revision_notes(model: str, revision: str | None, commit: str) -> tuple[str, ...]:
    if revision is not None and _HASH.fullmatch(revision) and commit.startswith(revision):
        return ()
    named = f"the revision {revision!r}" if revision else "the default branch"
    return (
        f"{named} of {model} can move; it is now commit {commit}: pin it with --revision {commit}",
    )


def _snapshot(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The folder of the hub's cache that holds one commit; its name is the commit."""
    from huggingface_hub import snapshot_download

    with hub_errors(model, revision), silenced():
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))


def _fetch(checkpoint: Checkpoint, patterns: tuple[str, ...]) -> None:
    """Download more files of the checkpoint; patterns begin at its subfolder."""
    below = subfolders.below(checkpoint.subfolder, patterns)
    _snapshot(checkpoint.name, checkpoint.commit, below)


def _fetch_pickles(checkpoint: Checkpoint, patterns: tuple[str, ...], allow_pickle: bool) -> None:
    """Download pickled weights if they are allowed; if not, name those that there are."""
    if allow_pickle:
        _fetch(checkpoint, patterns)
        return
    from huggingface_hub import HfApi

    with contextlib.suppress(OSError, ValueError):
        names = HfApi().list_repo_files(checkpoint.name, revision=checkpoint.commit)
        below = subfolders.below(checkpoint.subfolder, patterns)
        pickled = sorted(name for name in names if _fits(name, below))
        if pickled:
            raise _pickle_refused(checkpoint.name, pickled[0])


def _pickle_refused(where: object, file: str) -> ExportError:
    return ExportError(
        f"{where}: the only weights are pickled ({file})",
        f"allow that with --allow-pickle ({pickles.HOW}), or take a revision with "
        "model.safetensors",
    )


def _described(checkpoint: Checkpoint) -> Checkpoint:
    """Check everything but the weights, and refuse what cannot be exported."""
    modules = checkpoint.modules
    if modules and modules[0].kind == "Transformer" and modules[0].path:
        top = checkpoint.folder
        checkpoint = dataclasses.replace(checkpoint, folder=top / modules[0].path, top=top)
    elif modules and modules[0].kind != "Transformer" and not _has_config(checkpoint):
        raise ExportError(
            f"{checkpoint.name}: modules.json has the layers {', '.join(m.kind for m in modules)}; "
            "supported are layers that begin with a Transformer",
            "export another checkpoint; this one has no model that transformers could load",
        )
    if not _has_config(checkpoint):
        raise _missing(checkpoint, "config.json")
    config = _read_json(checkpoint.folder / "config.json")
    _check_config(checkpoint.name, config)
    checkpoint = dataclasses.replace(checkpoint, config=config)
    if not _matching(checkpoint.folder, TOKENIZERS) and not _tokenizes_bytes(checkpoint):
        raise _missing(checkpoint, "a tokenizer (tokenizer.json)")
    return checkpoint


def _tokenizes_bytes(checkpoint: Checkpoint) -> bool:
    """ByT5's tokenizer has no file of its own."""
    named = (checkpoint.read_json("tokenizer_config.json"), checkpoint.config)
    return any(one.get("tokenizer_class") == "ByT5Tokenizer" for one in named)


def _has_config(checkpoint: Checkpoint) -> bool:
    return (checkpoint.folder / "config.json").is_file()


def _missing(checkpoint: Checkpoint, what: str) -> ExportError:
    folder = checkpoint.folder
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    hint = "give a complete checkpoint in the Hugging Face layout (save_pretrained writes one)"
    if checkpoint.commit:
        hint = "try again when the hub can be reached, or export another checkpoint"
    return ExportError(
        f"{checkpoint.name}: {what} is missing in {folder}; "
        f"its files: {', '.join(names[:12]) or 'none'}{more}",
        hint,
    )


def _check_config(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what only code of the repository, or another library, could load."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if config.get("auto_map") and model_type not in CONFIG_MAPPING_NAMES:
        raise ExportError(
            f"{name}: config.json asks for code of the repository "
            f"({', '.join(sorted(set(map(str, config['auto_map'].values()))))})",
            _FOREIGN_CODE,
        )
    if model_type not in CONFIG_MAPPING_NAMES:
        raise ExportError(
            f"{name}: config.json has the model_type {model_type!r}, unknown to transformers",
            "take a checkpoint whose architecture is part of transformers",
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        raise ExportError(
            f"{name}: the weights are already quantized"
            f"{f' by {method}' if method else ''} (quantization_config in config.json)",
            "export the checkpoint it was made from, with --recipe int8",
        )


def _read_json(file: Path) -> Any:
    if not file.is_file():
        return {}
    again = "look at the file, or fetch the checkpoint once more"
    try:
        content = json_text.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{file}: cannot be read as JSON: {first_line(error)}", again) from error
    if not isinstance(content, dict) and file.name != module_list.FILE:
        raise ExportError(f"{file}: a {type(content).__name__}, not an object of settings", again)
    return content


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matching(folder: Path, patterns: tuple[str, ...] | list[str]) -> tuple[Path, ...]:
    return tuple(sorted(file for pattern in patterns for file in folder.glob(pattern)))
