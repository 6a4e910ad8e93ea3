"""Hostile bundles: what a stranger may do to a description, a folder, a tokenizer or a graph."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import onnx_bytes as ox
from support import small_bundles as bundles

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A hostile bundle.

    Attributes:
        base: The good bundle that it is made of, a function of `small_bundles`.
        change: What is done to its folder; next to it lies a folder `outside` with a secret.
        said: Part of the message.
    """

    name: str
    base: Callable[[Path], Path]
    change: Change
    said: str


def described(*path: Any, value: Any) -> Change:
    """Change a value of bundle.json."""

    def change(folder: Path) -> None:
        file = folder / "bundle.json"
        content = json.loads(file.read_text())
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        file.write_text(json.dumps(content))

    return change


def written(name: str, content: bytes) -> Change:
    """Replace a file's content, and have the description say so."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if name != "bundle.json":
            bundles.rehash(folder)

    return change


def tokenizer(**parts: Any) -> Change:
    """Replace parts of the tokenizer."""

    def change(folder: Path) -> None:
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, **parts}))
        bundles.rehash(folder)

    return change


def graph(*nodes: bytes, weights: tuple[bytes, ...] = (bundles.WEIGHTS,), **model: Any) -> Change:
    """A graph of these nodes before the lookup."""
    content = ox.graph([*nodes, bundles.LOOKUP], bundles.INPUTS, [bundles.STATES], weights)
    return written("model.onnx", ox.model(content, **model))


def external(**entries: str) -> Change:
    """The table of vectors in another file."""
    weights = ox.tensor("table", [bundles.VOCABULARY, bundles.WIDTH], external=entries)
    return graph(weights=(weights,))


def filled(size: int, *more: bytes) -> Change:
    """A constant of so many numbers, which the runtime would compute as it loads."""
    shape = ox.tensor("shape", [1], size.to_bytes(8, "little"), ox.INT64)
    nodes = [ox.node("ConstantOfShape", ["shape"], ["much"]), *more]
    return graph(*nodes, weights=(bundles.WEIGHTS, shape))


def _nested(depth: int) -> bytes:
    inner = ox.graph([ox.node("Identity", ["input_ids"], ["x"])], (), [ox.value("x", [])])
    for _ in range(depth):
        branch = ox.attribute("then_branch", inner, 5)
        inner = ox.graph([ox.node("If", ["yes"], ["x"], branch)], (), [ox.value("x", [])])
    return ox.node("Identity", ["x"], ["y"], ox.attribute("body", inner, 5))


_LOOP = ox.graph([ox.node("Identity", ["c"], ["d"])], [ox.value("i", [], 7)], [ox.value("d", [])])


def _loop_in_branch() -> bytes:
    loop = ox.node("Loop", ["", ""], ["x"], ox.attribute("body", _LOOP, 5))
    branch = ox.attribute("then_branch", ox.graph([loop], (), [ox.value("x", [])]), 5)
    return ox.node("If", ["yes"], ["y"], branch)


def _slow() -> Change:
    """Products of constants, each of some seconds."""
    shape = ox.tensor("square", [2], (3000).to_bytes(8, "little") * 2, ox.INT64)
    nodes = [ox.node("ConstantOfShape", ["square"], ["m0"])]
    nodes += [ox.node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(50)]
    last = ox.node("ReduceMax", ["m50"], ["top"])
    nodes += [last, ox.node("Add", ["table", "top"], ["table2"])]
    lookup = ox.node("Gather", ["table2", "input_ids"], ["last_hidden_state"])
    weights = (bundles.WEIGHTS, shape)
    content = ox.graph([*nodes, lookup], bundles.INPUTS, [bundles.STATES], weights)
    return written("model.onnx", ox.model(content))


def _listed_weights(**entries: str) -> Change:
    """Weights in a file that is listed, at a place that is not in it."""

    def change(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(bundles.TABLE)
        described("files", "weights.bin", value=bundles.record(folder / "weights.bin"))(folder)
        external(location="weights.bin", **entries)(folder)

    return change


def _other_inputs() -> Change:
    inputs = [*bundles.INPUTS, ox.value("secret", ["b"])]
    content = ox.graph([bundles.LOOKUP], inputs, [bundles.STATES], [bundles.WEIGHTS])
    return written("model.onnx", ox.model(content))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
    bundles.rehash(file.parent)


def _unlisted_tokenizer(folder: Path) -> None:
    file = folder / "bundle.json"
    content = json.loads(file.read_text())
    del content["files"]["tokenizer.json"]
    file.write_text(json.dumps(content))


def _listed(name: str) -> Change:
    def change(folder: Path) -> None:
        place = folder / name if "\0" not in name and name else folder / "bundle.json"
        entry = bundles.record(place) if place.is_file() else {"sha256": "0" * 64, "bytes": 1}
        described("files", name, value=entry)(folder)

    return change


def _linked(name: str, target: str = "") -> Change:
    """A symbolic link to a copy of the file outside of the folder, or to another file."""

    def change(folder: Path) -> None:
        outside = folder.parent / "outside" / name
        if not target:
            shutil.move(folder / name, outside)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target or outside)

    return change


def _hard_linked(folder: Path) -> None:
    os.link(folder / "model.onnx", folder.parent / "outside" / "model.onnx")


def _special(make: Callable[[Path], None]) -> Change:
    def change(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        make(folder / "tokenizer.json")

    return change


def _socket(file: Path) -> None:
    here = os.getcwd()
    os.chdir(file.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(file.name)
    finally:
        os.chdir(here)


def _added(name: str) -> Change:
    return lambda folder: (folder / name).write_text("{}") and None


def _foreign_weights(folder: Path) -> None:
    """Weights in a file of the folder that is not listed."""
    external(location="more.bin")(folder)
    (folder / "more.bin").write_bytes(bytes(bundles.VOCABULARY * bundles.WIDTH * 4))


def _zeros(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes((folder / "weights.bin").stat().st_size))


def _swapped_roles(folder: Path) -> None:
    file = folder / "bundle.json"
    text = file.read_text().replace("encoder.onnx", "step.tmp").replace("step.onnx", "encoder.onnx")
    file.write_text(text.replace("step.tmp", "step.onnx"))
    bundles.rehash(folder)


_DECODER = ("model_config", "decoder")
DESCRIPTIONS = (
    Case("layers-1e9", bundles.demo, described(*_DECODER, "layers", value=10**9), "layers is 1"),
    Case("layers-of-others", bundles.demo, described(*_DECODER, "layers", value=3), "of 2 layers"),
    Case("layers-float", bundles.demo, described(*_DECODER, "layers", value=2.0), "layers is 2.0"),
    Case("heads-true", bundles.demo, described(*_DECODER, "heads", value=True), "heads is true"),
    Case("heads-of-others", bundles.demo, described(*_DECODER, "heads", value=8), "4 heads in"),
    Case("head-dim", bundles.demo, described(*_DECODER, "head_dim", value=4096), "heads of 32"),
    Case("kv-heads", bundles.demo, described(*_DECODER, "kv_heads", value=-1), "kv_heads is -1"),
    Case("vocabulary", bundles.demo, described(*_DECODER, "vocabulary", value=9999), "width 256"),
    Case("causal", bundles.demo, described(*_DECODER, "start_id", value=-1), "start_id"),
    Case("other-task", bundles.demo, described("task", value="text-classification"), "logits"),
    Case("axes", bundles.classifier, described("task", value="token-classification"), "axes"),
    Case(
        "forced-id",
        bundles.demo,
        described(*_DECODER, "search", "forced_bos_id", value=300),
        "of 256 tokens",
    ),
    Case("beams", bundles.demo, described(*_DECODER, "search", "num_beams", value=10**6), "beams"),
    Case("no-decoder", bundles.demo, described(*_DECODER, value=None), "graphs lacks one of model"),
    Case("length-0", bundles.embedder, described("model_config", "max_length", value=0), "is 0"),
    Case(
        "length-text", bundles.embedder, described("model_config", "max_length", value="9"), '"9"'
    ),
    Case("hidden", bundles.embedder, described("model_config", "hidden", value=16), "the width 8"),
    Case("labels", bundles.classifier, described("model_config", "labels", value=["a"]), "width 3"),
    Case(
        "label-1", bundles.classifier, described("model_config", "labels", value=[1]), "labels[0]"
    ),
    Case("label-escape", bundles.classifier, described("task", value="\x1b[2J"), "\\x1b[2J"),
    Case("task", bundles.embedder, described("task", value="fill"), "bundle.json: unknown"),
    Case("pooling", bundles.embedder, described("model_config", "pooling", value="x"), "pooling"),
    Case("unknown-key", bundles.embedder, described("more", value=1), "unknown key more"),
    Case("missing-key", bundles.embedder, described("model_config", value={}), "is missing"),
    Case("megabytes", bundles.embedder, described("task", value="x" * 5_000_000), "5,000,000"),
    Case("numbers-of-digits", bundles.embedder, described("format", value=10**400), "format"),
    Case("nan", bundles.embedder, described("proof", value={"x": float("nan")}), "NaN"),
    Case("infinity", bundles.embedder, described("proof", value={"x": -1e999}), "Infinity"),
    Case("nested", bundles.embedder, written("bundle.json", b"[" * 10**6), "nested too deeply"),
    Case("many-bytes", bundles.embedder, written("bundle.json", b"1" + b" " * 10**8), "more than"),
    Case("empty", bundles.embedder, written("bundle.json", b""), "no JSON"),
    Case("no-text", bundles.embedder, written("bundle.json", b"\xff\xfe{"), "not UTF-8"),
    Case("twice", bundles.embedder, written("bundle.json", b'{"a":1,"a":2}'), "comes twice"),
    Case("a-list", bundles.embedder, written("bundle.json", b"[]"), "not a bundle description"),
)
FOLDERS = (
    Case("unlisted-file", bundles.demo, _added("more.json"), "more.json"),
    Case("unlisted-escape", bundles.demo, _added("a\n\x1b[2J"), "a\\n\\u001b[2J"),
    Case("unlisted-tokenizer", bundles.demo, _unlisted_tokenizer, "tokenizer.json"),
    Case("unlisted-weights", bundles.embedder, _foreign_weights, "more.bin"),
    Case("other-weights", bundles.demo, _zeros, "are not the ones"),
    Case("missing", bundles.demo, lambda folder: (folder / "weights.bin").unlink(), "is missing"),
    *(
        Case(f"listed-{number}", bundles.embedder, _listed(name), "no plain name")
        for number, name in enumerate(
            ("../outside/secret", "/etc/hostname", "a/b", "", "a\0b", "a\\b", "..", "bundle.json")
        )
    ),
    Case("link-outside", bundles.embedder, _linked("model.onnx"), "a symbolic link"),
    Case("link-of-tokenizer", bundles.embedder, _linked("tokenizer.json"), "a symbolic link"),
    Case("link-of-bundle.json", bundles.embedder, _linked("bundle.json"), "a symbolic link"),
    Case("link-inside", bundles.demo, _linked("step.onnx", "encoder.onnx"), "a symbolic link"),
    Case("link-to-nothing", bundles.demo, _linked("step.onnx", "nothing"), "a symbolic link"),
    Case("link-tuned", bundles.demo, _linked("tuned.json", "/etc/hostname"), "a symbolic link"),
    Case("hard-link", bundles.embedder, _hard_linked, "a hard link"),
    Case("folder", bundles.embedder, _special(Path.mkdir), "a folder"),
    Case("pipe", bundles.embedder, _special(os.mkfifo), "a special file"),
    Case("socket", bundles.embedder, _special(_socket), "a special file"),
    Case("tuned-nested", bundles.demo, written("tuned.json", b"[" * 10**6), "tuned.json"),
    Case("tuned-wrong", bundles.demo, written("tuned.json", b'{"workers": "x"}'), "tuned.json"),
    Case(
        "tuned-many", bundles.demo, written("tuned.json", b'{"batch_tokens": 1e30}'), "tuned.json"
    ),
)
_VOCABULARY = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
TOKENIZERS = (
    Case("no-tokenizer", bundles.embedder, written("tokenizer.json", b"{}"), "not a tokenizer"),
    Case("cut-tokenizer", bundles.embedder, written("tokenizer.json", b'{"ver'), "not a tokenizer"),
    Case("deep-tokenizer", bundles.embedder, written("tokenizer.json", b"[" * 10**6), "tokenizer"),
    Case(
        "big-tokenizer", bundles.embedder, written("tokenizer.json", b"[" + b"0," * 10**7), "not a"
    ),
    Case("no-tokens", bundles.embedder, tokenizer(model={**_VOCABULARY, "vocab": {}}), "tokenizer"),
    Case("id", bundles.embedder, tokenizer(model={**_VOCABULARY, "vocab": {"a": -1}}), "tokenizer"),
    Case(
        "large-id", bundles.embedder, tokenizer(model={**_VOCABULARY, "vocab": {"a": 2**31}}), "id"
    ),
    Case(
        "regex",
        bundles.embedder,
        tokenizer(normalizer={"type": "Replace", "pattern": {"Regex": "(a"}, "content": ""}),
        "not a tokenizer",
    ),
    Case(
        "growing",
        bundles.embedder,
        tokenizer(
            normalizer={
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
                ]
                * 4,
            }
        ),
        "takes more than",  # memory or time, whichever comes first
    ),
    Case(
        "charsmap",
        bundles.embedder,
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        "tokenizer.json",
    ),
    Case(
        "unigram",
        bundles.embedder,
        tokenizer(model={"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]}),
        "tokenizer",
    ),
    Case(
        "template",
        bundles.embedder,
        tokenizer(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "none", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        ),
        "tokenizer",
    ),
)
GRAPHS = (
    Case("no-graph", bundles.embedder, written("model.onnx", b""), "is empty"),
    Case("cut-graph", bundles.demo, lambda folder: _cut(folder / "step.onnx"), "is cut short"),
    Case("no-model", bundles.embedder, written("model.onnx", b"\x00" * 100), "ONNX"),
    Case("text-graph", bundles.embedder, written("model.onnx", b"hello world"), "ONNX"),
    Case("weights-above", bundles.embedder, external(location="../outside/secret"), "secret"),
    Case("weights-absolute", bundles.embedder, external(location="/etc/hostname"), "hostname"),
    Case("weights-unnamed", bundles.embedder, external(location=""), "has weights in"),
    Case(
        "weights-in-memory",
        bundles.embedder,
        external(location="*/_ORT_MEM_ADDR_/*", offset="4096", length="8192"),
        "has weights in",
    ),
    Case("weights-of-tokenizer", bundles.embedder, external(location="tokenizer.json"), "weights"),
    Case("weights-elsewhere", bundles.embedder, _listed_weights(offset="99999999"), "refuses"),
    Case("weights-negative", bundles.embedder, _listed_weights(offset="-8"), "refuses"),
    Case("weights-length", bundles.embedder, _listed_weights(length="9" * 30), "refuses"),
    Case(
        "domain",
        bundles.embedder,
        graph(ox.node("Run", [], ["y"], domain="evil"), domains=["evil"]),
        "evil",
    ),
    Case(
        "contrib-unknown",
        bundles.embedder,
        graph(ox.node("Run", [], ["y"], domain="com.microsoft"), domains=["com.microsoft"]),
        "refuses",
    ),
    Case(
        "loop",
        bundles.embedder,
        graph(ox.node("Loop", ["", ""], ["y"], ox.attribute("body", _LOOP, 5))),
        "Loop",
    ),
    Case("loop-inside", bundles.embedder, graph(_loop_in_branch()), "Loop"),
    Case("deep-graph", bundles.embedder, graph(_nested(40)), "nested too deeply"),
    Case("filled-1e12", bundles.embedder, filled(10**12), "MiB"),
    Case("filled-1e9", bundles.embedder, filled(10**9), "MiB"),
    Case("filled-negative", bundles.embedder, filled(2**64 - 5), "refuses"),
    Case("slow-folding", bundles.embedder, _slow(), "model.onnx"),
    Case(
        "weights-dims",
        bundles.embedder,
        graph(weights=(ox.tensor("table", [2**40, 2**40], b"\0" * 64),)),
        "refuses",
    ),
    Case(
        "no-inputs",
        bundles.embedder,
        written("model.onnx", ox.model(ox.graph([], [], []))),
        "model.onnx",
    ),
    Case("other-inputs", bundles.embedder, _other_inputs(), "takes"),
    Case("swapped-roles", bundles.demo, _swapped_roles, ".onnx"),
)
CASES = (*DESCRIPTIONS, *FOLDERS, *TOKENIZERS, *GRAPHS)
