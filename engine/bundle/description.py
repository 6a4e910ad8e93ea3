"""What bundle.json says of a model: the values that export writes and a run reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.core.graphs import GraphRecord

FORMAT = 4


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
