"""zero-shot-classification: how well each label fits a text, by a model for entailment.

Each label becomes a hypothesis, and text and hypothesis become a pair. The rules are those of
transformers' ZeroShotClassificationPipeline (4.57).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, comma_separated, option
from engine.core.types import TEXT, Arrays, Column, Encoded, Floats, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks.task import WINDOW, Context, Task

# Labels that a row is assumed to have where each row has its own.
USUAL_LABELS = 16


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions:
    """A single text as `candidate_labels` is split at its commas."""

    candidate_labels: tuple[str, ...] = option(
        "labels for every row, a,b; without them a column has a list for each row",
        read=comma_separated,
    )
    hypothesis_template: str = option("sentence with {} where the label goes")
    multi_label: bool = option(
        "score each label on its own, so that several may be true", needs=("several labels",)
    )

    def __post_init__(self) -> None:
        check_settings(self)
        _check_template(self.hypothesis_template)


def _check_template(template: str) -> None:
    try:
        fits = template.format("a") != template.format("b")
    except (ValueError, LookupError, AttributeError):
        fits = False
    if not fits:
        raise SettingsError(
            f"hypothesis_template is {template!r}, which has no {{}} for the label",
            "put {} where the label goes, such as 'This example is {}.'",
        )


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "candidate_labels": (),
        "hypothesis_template": "This example is {}.",
        "multi_label": False,
    }


def _check(model_config: ModelConfig, options: ZeroShotOptions, columns: int) -> None:
    entailment(model_config)
    if options.candidate_labels and columns > 1:
        raise SettingsError(
            "labels are given twice: as candidate_labels and as a column", _WHERE_LABELS
        )
    if not options.candidate_labels and columns == 1:
        raise SettingsError("no labels are given", _WHERE_LABELS)


_WHERE_LABELS = (
    "candidate_labels (--candidate-labels a,b) are for every row; a second input column "
    "(--text text,labels) has a list of them for each row"
)


def entailment(model_config: ModelConfig) -> int:
    """Index of the label that says that the text entails the hypothesis.

    Raises:
        SettingsError: No label's name starts with "entail".
    """
    if model_config.entailment >= 0:
        return model_config.entailment
    for i, label in enumerate(model_config.labels):
        if label.lower().startswith("entail"):
            return i
    raise SettingsError(
        "none of the model's labels is entailment: "
        f"{', '.join(model_config.labels) or 'it has none'}",
        "export a checkpoint trained on natural language inference, or name its labels in "
        "config.json (id2label, label2id) and export it again",
    )


def _window(options: ZeroShotOptions) -> int:
    return max(1, WINDOW // (len(options.candidate_labels) or USUAL_LABELS))


def _encode(rows: Rows, context: Context) -> Encoded:
    """A pair for each label of each row.

    Labels of a row whose hypotheses have the same tokens share a pair, so that their scores are
    equal to the last bit and come in the pipeline's order of equal scores.
    """
    names, labels = _labels(rows, context.options)
    template = context.options.hypothesis_template
    sentences = pa.array([template.format(name) for name in names.to_pylist()], pa.string())
    hypotheses = context.tokenizer.ids(sentences)
    row = np.repeat(np.arange(len(rows)), labels.lengths)
    keys = row * len(names) + _first_equal(hypotheses)[labels.values]
    pairs, pair = np.unique(keys, return_inverse=True)
    owners, which = np.divmod(pairs, max(1, len(names)))
    most = max(context.tokenizer.max_length, context.model_config.position_limit)
    cut = chunking.first_cut(
        context.tokenizer.ids(rows.texts[0], most=most),
        hypotheses,
        (owners, which),
        context.tokenizer.pair_layout,
        max_length=context.tokenizer.max_length,
        longest=context.model_config.position_limit,
        side=context.tokenizer.side,
    )
    truncated = np.zeros(len(rows), np.bool_)
    truncated[owners[cut.truncated]] = True
    types = cut.type_ids if context.type_ids else None
    extra = {"names": names, "labels": labels, "pair": pair.astype(np.int64)}
    return Encoded(rows, cut.ids, types, truncated, owners, extra)


def _labels(rows: Rows, options: ZeroShotOptions) -> tuple[pa.StringArray, Ragged]:
    """The unique labels, and for each row the indices of its labels."""
    if options.candidate_labels:
        count = len(options.candidate_labels)
        numbers = np.tile(np.arange(count), len(rows))
        return pa.array(options.candidate_labels, pa.string()), Ragged.of(
            numbers, np.full(len(rows), count)
        )
    column = rows.texts[1]
    encoded = column.flatten().dictionary_encode()
    lengths = np.asarray(pc.list_value_length(column), np.int64)
    return encoded.dictionary, Ragged.of(np.asarray(encoded.indices, np.int64), lengths)


def _first_equal(texts: Ragged) -> Ints:
    """For each text the first that has the same tokens."""
    first: dict[bytes, int] = {}
    keys = (texts.values[a:b].tobytes() for a, b in pairwise(texts.offsets.tolist()))
    return np.array([first.setdefault(key, i) for i, key in enumerate(keys)], np.int64)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (logits,) = backend.graph("model").run(feeds, ["logits"])
    entails = entailment(context.model_config)
    # The pipeline's rule; a neutral label is not used.
    contradicts = -1 if entails == 0 else 0
    return {"logits": np.asarray(backend.host(logits)[:, [contradicts, entails]], np.float32)}


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    labels = window.extra["labels"]
    logits = np.zeros((0, 2), np.float32)
    if len(window.ids):
        logits = np.asarray(arrays["logits"])[window.extra["pair"]]
    order = np.zeros(len(labels.values), np.int64)
    scores = np.zeros(len(labels.values), np.float32)
    for count in np.unique(labels.lengths[labels.lengths > 0]):
        at = labels.offsets[:-1][labels.lengths == count][:, None] + np.arange(count)
        row_scores = _scores(logits[at], context.options.multi_label)
        # The same call as in the pipeline: NumPy's default sort decides the order of equal scores.
        best = np.argsort(row_scores, axis=1)[:, ::-1]
        order[at] = np.take_along_axis(at, best, axis=1)
        scores[at] = np.take_along_axis(row_scores, best, axis=1)
    offsets = pa.array(labels.offsets.astype(np.int32))
    names = window.extra["names"].take(pa.array(labels.values[order]))
    values = pa.array(scores, pa.float32())
    return [pa.ListArray.from_arrays(offsets, column) for column in (names, values)]


def _scores(logits: Floats, multi_label: bool) -> Floats:
    """Logits (rows, labels, 2: contradiction, entailment) to scores (rows, labels)."""
    if multi_label or logits.shape[1] == 1:
        return _softmax(logits)[..., 1]
    return _softmax(logits[..., 1])


def _softmax(logits: Floats) -> Floats:
    """Along the last axis. As in the pipeline the maximum is not subtracted first, so that the same
    scores come out equal as there; except where they would exceed the range of float32."""
    highest = logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits - (highest - np.clip(highest, -60, 60)))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def _schema(model_config: ModelConfig, options: ZeroShotOptions) -> pa.Schema:
    return pa.schema([("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


TASK = Task(
    name="zero-shot-classification",
    aliases=(),
    summary="scores for labels of your choice for each text",
    inputs=(TEXT, Column("labels", holds="texts", needed=False)),
    batch_tokens=2048,
    options=ZeroShotOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result="labels: list<string>, scores: list<float32>, best first",
    window=_window,
    check=_check,
)
