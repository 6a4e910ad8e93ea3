"""The exported-model folder: the only contract between export and run.

    BUNDLE/bundle.json       what it is, where it came from, how it was proven, what each graph is
                             for (`GraphRecord`), and hashes of the other files
    BUNDLE/tokenizer.json    the `tokenizers` library's own format
    BUNDLE/*.onnx            the graphs
    BUNDLE/weights.bin       their weights; equal ones of all graphs once

Inputs and outputs of graphs are listed in `GRAPHS` below. Nothing in a bundle is executable and
nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from engine.core.device import Device
from engine.core.graphs import GraphRecord, Role
from engine.errors import BundleError

# Written, and those read: a field that an older format lacks has its default.
FORMAT, READABLE = 4, (3, 4)
DESCRIPTION = "bundle.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
# Of `device_step`: columns of a slot's state (next token, positions cached, tokens it may still
# emit, source tokens), and of how many steps it keeps the emitted tokens.
STATE_WIDTH, SYNC_EVERY = 4, 8

# Input names, then output names, by role. N runs over the decoder's layers. A graph without padding
# takes `PACKING`, too, and gives anything at the padding.
PACKING = ("token_indices", "inverse_indices", "token_offset", "cu_seqlens")
GRAPHS: Mapping[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (
        ("input_ids", "attention_mask", "token_type_ids (if the model has them)"),
        ("last_hidden_state | logits | start_logits, end_logits",),
    ),
    "dense": (("embedding",), ("projected",)),
    "pooling": (("last_hidden_state", "weights"), ("pooled",)),
    "mask_logits": (("logits", "positions"), ("masked_logits",)),
    "encoder": (
        ("input_ids", "attention_mask"),
        ("cross.N.key", "cross.N.value"),
    ),
    "step": (
        (
            "tokens",
            "lengths",
            "total",
            "rotary_offset (if long rows are rotated otherwise)",
            "source_last, source_total",
            "past.N.key",
            "past.N.value",
            "cross.N.key",
            "cross.N.value",
            "last.N.key",
            "last.N.value",
            "picks",
            "scored",
        ),
        (
            "logits",
            "best",
            "best_scores",
            "present.N.key",
            "present.N.value",
            "cross_present.N.key",
            "cross_present.N.value",
        ),
    ),
    "device_step": (
        (
            "state",
            "emitted",
            "cache_positions",
            "source_positions (with an encoder)",
            "eos_ids",
            "forced_tokens (without one)",
            "past.N.key",
            "past.N.value",
            "cross.N.key (with an encoder)",
            "cross.N.value (with an encoder)",
        ),
        ("logits", "next_state", "next_emitted", "present.N.key", "present.N.value"),
    ),
    "admit": (
        (
            "slots",
            "rows",
            "positions",
            "encoded.N.key",
            "encoded.N.value",
            "cross.N.key",
            "cross.N.value",
        ),
        ("filled.N.key", "filled.N.value"),
    ),
    "move": (
        ("sources", "past.N.key", "past.N.value"),
        ("moved.N.key", "moved.N.value"),
    ),
    "grow": (("pads", "past.N.key", "past.N.value"), ("grown.N.key", "grown.N.value")),
    "pick": (("logits", "picks"), ("best", "best_logits", "best_scores")),
}


@dataclass(frozen=True)
class GenerationConfig:
    """How the next token is chosen: the checkpoint's settings under transformers' names.

    Attributes:
        num_beams: 1 is greedy.
        num_return_sequences: Of each row; at most `num_beams` unless tokens are sampled.
        length_penalty: Exponent of a finished beam's length, which divides its score.
        early_stopping: True, False or "never", as GenerationConfig explains them.
        min_new_tokens: The end token cannot come before as many; a number or, as
            `core.token_limit` reads it, a text such as 9-x.
        no_repeat_ngram_size: No n-gram of this size twice; 0 is off.
        encoder_no_repeat_ngram_size: None that is in the input.
        repetition_penalty: Weakens tokens already seen (CTRL, arXiv:1909.05858); 1 is off.
        forced_bos_id, forced_eos_id: The first token, and the one at the limit; -1 is none.
        bad_words_ids: Token sequences that cannot come.
        suppress_ids, begin_suppress_ids: Tokens that cannot come, ever and as the first.
        do_sample: Draw the next token instead of taking the likeliest; num_beams is 1 then.
        temperature, top_k, top_p, min_p: What is drawn from (see `generation.sampling`); a top_k
            of 0 is off.
    """

    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    min_new_tokens: int | str = 0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_bos_id: int = -1
    forced_eos_id: int = -1
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_ids: tuple[int, ...] = ()
    begin_suppress_ids: tuple[int, ...] = ()
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    """How a decoder starts, ends and is cached.

    The key/value cache is (rows, kv_heads, length, head_dim); `kv_heads` is 0 where there are as
    many as `heads`, those of the queries.
    `max_new_tokens` counts what is generated, the end token included, the start token not; a number
    or, as `core.token_limit` reads it, a text: 50-x for a limit of 50 with the prompt.
    `start_id` is -1 for a causal model, which starts from the prompt, or from `bos_id` where there
    is none (-1: the tokenizer has no such token). `vocabulary` is the number of logits of the step
    graph, 0 where the bundle has the graph `decoder` instead. Rows with more than `long_from`
    positions are rotated by other factors (Phi-3's longrope); 0 is none.
    """

    start_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int | str
    layers: int
    heads: int
    head_dim: int
    search: GenerationConfig = GenerationConfig()
    bos_id: int = -1
    vocabulary: int = 0
    kv_heads: int = 0
    long_from: int = 0

    @property
    def cache_heads(self) -> int:
        """Heads of the key/value cache."""
        return self.kv_heads or self.heads

    @property
    def causal(self) -> bool:
        """Whether there is no encoder."""
        return self.start_id < 0


@dataclass(frozen=True)
class Languages:
    """Language codes of a translator that takes them as tokens (mBART, NLLB, M2M100).

    Attributes:
        ids: Token id of every code, such as {"en_XX": 250004}.
        source: The code whose token the bundle's tokenizer puts into every row.
        target: The code translated into unless the person says otherwise; "" where there is none.
            Its token is forced as the first.
    """

    ids: Mapping[str, int]
    source: str
    target: str = ""


@dataclass(frozen=True)
class ModelConfig:
    """What the run has to know of a model beyond its graphs.

    Attributes:
        max_length: Tokens of one encoded row at most, special tokens included; longer rows are cut.
        truncation_side: Where a long row is cut: left or right; "" for the task's usual side.
        position_limit: Positions the weights have, 0 where positions are relative: `max_length`
            may be raised up to here.
        pad_id, unk_id, mask_id, cls_id: Token ids; -1 where the tokenizer has none.
        mask_token: The mask as written in a text (fill-mask).
        clean_up: The tokenizer takes the space before a full stop and the like out of decoded text.
        labels: Class names in the order of the logits (classification, entailment, tokens).
        problem_type: single_label_classification, multi_label_classification or regression; ""
            where the checkpoint does not say.
        entailment: Index of the logit of entailment (zero-shot-classification); -1: of the first
            label that starts with "entail".
        activation: sigmoid or none: what makes a score of a logit (rerank).
        pooling: Names of `tasks.feature_extraction.POOLINGS`, joined by "+" where the results of
            several are concatenated (feature-extraction).
        include_prompt: Whether the tokens of a prompt are pooled, too.
        normalize: Scale embeddings to length 1 (feature-extraction).
        dimensions: Width of an embedding (feature-extraction).
        hidden: Width of a token's state (feature-extraction).
        projected: A graph `dense` follows the pooling.
        prefix: Put before every text (T5's task prefix, an embedder's default prompt).
        prompts: An embedder's other prompts by name.
        strip: An embedder removes the white space around a text, its prompt included.
        lower_case: An embedder lower-cases a text, its prompt and special tokens included.
        decoder: Decoder settings (translation and its kin).
        languages: Where the translator takes language codes.
        chat_templates: The checkpoint's chat templates (Jinja) by name.
        special_tokens: What they call the tokenizer's special tokens, such as bos_token.
    """

    max_length: int
    truncation_side: str = ""
    position_limit: int = 0
    pad_id: int = 0
    unk_id: int = -1
    mask_id: int = -1
    cls_id: int = -1
    mask_token: str = ""
    clean_up: bool = False
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    entailment: int = -1
    activation: str = ""
    pooling: str = ""
    include_prompt: bool = True
    normalize: bool = False
    dimensions: int = 0
    hidden: int = 0
    projected: bool = False
    prefix: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    strip: bool = False
    lower_case: bool = False
    decoder: DecoderConfig | None = None
    languages: Languages | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """The content of bundle.json.

    Attributes:
        task: A name of `engine.tasks.TASKS`.
        architecture: The checkpoint's model_type, such as "t5" or "bert".
        recipe: Name of the quantization recipe, such as "fp32".
        source: model (hub id or folder name), revision (40-hex commit or "" for a folder),
            requested_revision, weights_sha256; subfolder where there is one.
        tools: Versions of what made it, by distribution name.
        proof: sentences, largest_difference, tolerance, and what was compared: the fp32 graphs
            with the checkpoint.
        gate: For another recipe, what the bundle's answers are beside the fp32 graphs' (see
            `engine.export.acceptance.gate.GateReport`).
        smoothed: Outliers lie in the weights, not in activations (see
            `engine.export.recipes.smoothquant`).
        graphs: One for each ONNX file.
        files: sha256 (hex) and bytes of every other file in the folder, by name.
        notes: What the user should know, such as a checkpoint default that is not followed.
    """

    task: str
    architecture: str
    recipe: str
    model_config: ModelConfig
    source: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    smoothed: bool = False
    graphs: tuple[GraphRecord, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class BundleFolder:
    """A bundle on disk whose description has been read. `check` reads the rest."""

    path: Path
    description: Description
    fingerprint: str

    def graphs_for(self, device: Device) -> tuple[GraphRecord, ...]:
        """The graphs that a device loads, one of each role."""
        return tuple(graph for graph in self.description.graphs if graph.loads_on(device))

    def check(self) -> None:
        """Compare every file with its recorded size and sha256.

        Raises:
            BundleError: A file is missing or has other bytes; it is named.
        """
        for name, recorded in self.description.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path}: {name} is missing", _AGAIN)
            if file.stat().st_size != recorded["bytes"] or sha256(file) != recorded["sha256"]:
                raise BundleError(f"{file}: its bytes are not the ones that were exported", _AGAIN)


_AGAIN = "export the model again, or copy the whole bundle once more"


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(folder: Path, description: Description) -> Description:
    """Hash the files in `folder`, then write bundle.json.

    The caller gives a temporary folder and renames it afterwards.
    """
    names = sorted(p.name for p in folder.iterdir() if p.name != DESCRIPTION)
    files = {n: {"sha256": sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    whole = dataclasses.replace(description, files=files)
    (folder / DESCRIPTION).write_text(whole.to_json(), encoding="utf-8")
    return whole


def load(path: Path | str) -> BundleFolder:
    """Read a bundle's description.

    Raises:
        BundleError: The folder is missing, is not a bundle, or is of another format version.
    """
    folder = Path(path)
    file = folder / DESCRIPTION
    if not folder.exists():
        raise BundleError(
            f"{folder}: no such bundle", "make one with: engine export MODEL -o FOLDER"
        )
    if not file.is_file():
        raise BundleError(f"{folder}: not a bundle (it has no {DESCRIPTION})", _what_it_is(folder))
    raw = file.read_bytes()
    try:
        content = json.loads(raw)
        version = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file}: not a bundle description", _AGAIN) from error
    if version not in READABLE:
        raise BundleError(
            f"{file}: bundle format {version!r}; this engine reads "
            f"{' and '.join(map(str, READABLE))}",
            _export_again(folder, content),
        )
    return BundleFolder(folder, _description(file, content), hashlib.sha256(raw).hexdigest())


def _export_again(folder: Path, content: Mapping[str, Any]) -> str:
    """What to run instead of reading a bundle of another format, by its own description."""
    try:
        source, recipe = content["source"], content["recipe"]
        words = ["engine", "export", source["model"], "--task", content["task"]]
        words += ["--revision", source["revision"]] if source["revision"] else []
        words += ["--subfolder", source["subfolder"]] if source.get("subfolder") else []
        words += ["--recipe", recipe] if recipe != "fp32" else []
        command = shlex.join([*words, "-o", str(folder)])
    except (KeyError, TypeError):
        command = f"engine export MODEL --task TASK -o {folder}"
    return f"remove the folder, then: {command}"


def _what_it_is(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"this is a checkpoint: engine export {folder} --task TASK -o BUNDLE makes a bundle"
    if (folder / "_manifest").is_dir():
        return "this is a run's output folder; give the bundle that made it"
    return "give the folder that `engine export` wrote"


def _description(file: Path, content: dict[str, Any]) -> Description:
    try:
        graphs = tuple(GraphRecord(**graph) for graph in content["graphs"])
        model_config = _model_config(content["model_config"])
        content = _frozen({**content, "model_config": model_config, "graphs": graphs})
        description = Description(**content)
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(f"{file}: the description is damaged: {error}", _AGAIN) from error
    for graph in graphs:
        if graph.file not in description.files or graph.role not in get_args(Role):
            raise BundleError(f"{file}: the description is damaged: {graph}", _AGAIN)
    return description


def _model_config(content: Mapping[str, Any]) -> ModelConfig:
    model_config = _frozen(content)
    if decoder := model_config.get("decoder"):
        search = GenerationConfig(**_frozen(decoder.get("search", {})))
        model_config["decoder"] = DecoderConfig(**{**_frozen(decoder), "search": search})
    if languages := model_config.get("languages"):
        model_config["languages"] = Languages(**languages)
    return ModelConfig(**model_config)


def _frozen(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: _tuple(value) for name, value in content.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
