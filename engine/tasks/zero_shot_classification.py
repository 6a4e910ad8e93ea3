"""zero-shot-classification: how well each of a row's labels fits, asked of an entailment model.

Every label makes a hypothesis, and the text with the hypothesis makes a pair. The rules are those
of transformers' ZeroShotClassificationPipeline (4.57).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, comma_separated, option
from engine.core.types import TEXT, Arrays, Column, Encoded, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks.task import WINDOW, Context, Task

Floats = NDArray[np.float32]

# Labels that a row is taken to have where each brings its own.
USUAL_LABELS = 16


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions:
    """`candidate_labels` as one text is split at its commas."""

    candidate_labels: tuple[str, ...] = option(
        "labels for every row, a,b; without them a column has a list for each row",
        read=comma_separated,
    )
    hypothesis_template: str = option("sentence with {} where the label goes")
    multi_label: bool = option("score each label on its own, so that several may be true")

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
            f"hypothesis_template is {template!r}, which has no place for the label",
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
    """Number of the label that says that the hypothesis follows.

    Raises:
        SettingsError: No label's name starts with "entail".
    """
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

    Labels of a row whose hypotheses are the same tokens share a pair, so that their scores are the
    same to the last bit, and the order of equals is the pipeline's.
    """
    names, labels = _labels(rows, context.options)
    template = context.options.hypothesis_template
    told = pa.array([template.format(name) for name in names.to_pylist()], pa.string())
    hypotheses = context.tokenizer.ids(told)
    row = np.repeat(np.arange(len(rows)), labels.lengths)
    wanted = row * len(names) + _same(hypotheses)[labels.values]
    pairs, pair = np.unique(wanted, return_inverse=True)
    owners, which = np.divmod(pairs, max(1, len(names)))
    made = chunking.first_cut(
        context.tokenizer.ids(rows.texts[0]),
        hypotheses,
        (owners, which),
        context.tokenizer.paired,
        max_length=context.tokenizer.max_length,
        longest=context.model_config.position_limit,
    )
    truncated = np.zeros(len(rows), np.bool_)
    truncated[owners[made.truncated]] = True
    types = made.type_ids if context.type_ids else None
    extra = {"names": names, "labels": labels, "pair": pair.astype(np.int64)}
    return Encoded(rows, made.ids, types, truncated, owners, extra)


def _labels(rows: Rows, options: ZeroShotOptions) -> tuple[pa.StringArray, Ragged]:
    """The labels' names, each once, and the numbers of every row's labels among them."""
    if options.candidate_labels:
        count = len(options.candidate_labels)
        numbers = np.tile(np.arange(count), len(rows))
        return pa.array(options.candidate_labels, pa.string()), Ragged.of(
            numbers, np.full(len(rows), count)
        )
    column = rows.texts[1]
    found = column.flatten().dictionary_encode()
    lengths = np.asarray(pc.list_value_length(column), np.int64)
    return found.dictionary, Ragged.of(np.asarray(found.indices, np.int64), lengths)


def _same(texts: Ragged) -> Ints:
    """For each text the first that has the same tokens."""
    first: dict[bytes, int] = {}
    keys = (texts.values[a:b].tobytes() for a, b in pairwise(texts.offsets.tolist()))
    return np.array([first.setdefault(key, i) for i, key in enumerate(keys)], np.int64)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    (logits,) = backend.graph("model").run(feeds, ["logits"])
    agrees = entailment(context.model_config)
    # The pipeline's rule; the neutral label, where there is one, is neither.
    contradicts = -1 if agrees == 0 else 0
    return {"logits": np.asarray(backend.host(logits)[:, [contradicts, agrees]], np.float32)}


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    labels = window.extra["labels"]
    logits = np.zeros((0, 2), np.float32)
    if len(window.ids):
        logits = np.asarray(arrays["logits"])[window.extra["pair"]]
    order = np.zeros(len(labels.values), np.int64)
    scores = np.zeros(len(labels.values), np.float32)
    for count in np.unique(labels.lengths[labels.lengths > 0]):
        at = labels.offsets[:-1][labels.lengths == count][:, None] + np.arange(count)
        found = _scores(logits[at], context.options.multi_label)
        # The same call as in the pipeline: NumPy's default sort decides the order of equals.
        best = np.argsort(found, axis=1)[:, ::-1]
        order[at] = np.take_along_axis(at, best, axis=1)
        scores[at] = np.take_along_axis(found, best, axis=1)
    offsets = pa.array(labels.offsets.astype(np.int32))
    names = window.extra["names"].take(pa.array(labels.values[order]))
    values = pa.array(scores, pa.float32())
    return [pa.ListArray.from_arrays(offsets, column) for column in (names, values)]


def _scores(logits: Floats, multi_label: bool) -> Floats:
    """(rows, labels, contradiction and entailment) to (rows, labels)."""
    if multi_label or logits.shape[1] == 1:
        return _softmax(logits)[..., 1]
    return _softmax(logits[..., 1])


def _softmax(logits: Floats) -> Floats:
    """Along the last axis. As in the pipeline nothing is taken off before, so that scores come out
    equal, or not, as they do there; unless they would leave the range of float32."""
    most = logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits - (most - np.clip(most, -60, 60)))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def _schema(context: Context) -> pa.Schema:
    return pa.schema([("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


TASK = Task(
    name="zero-shot-classification",
    aliases=(),
    summary="labels of one's own choice with their scores for each text",
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
