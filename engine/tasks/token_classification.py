"""token-classification: named entities and other labelled spans of a text, with their positions.

The rules are those of transformers' TokenClassificationPipeline (4.57). It refuses a stride without
aggregation; here every token is answered once then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, comma_separated, option
from engine.core.types import Arrays, Column, Encoded, Flags, Floats, Ints, Ragged, Rows, Tokens
from engine.errors import BundleError, SettingsError
from engine.runtime.protocol import Backend
from engine.tasks.task import WINDOW, Context, Task, ragged
from engine.tasks.text_classification import softmax

AVERAGE = "average"
STRATEGIES = ("none", "simple", "first", AVERAGE, "max")
# Strategies that give all tokens of a word one label.
BY_WORD = ("first", AVERAGE, "max")
# A space in a byte-level vocabulary.
SPACE = "Ġ"
# Fewer rows than usual, for a strategy that needs the scores of all labels of each token.
WINDOW_OF_SCORES = 1024


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions:
    """A single text as `ignore_labels` is split at its commas."""

    aggregation_strategy: str = option(
        "how tokens become entities: none, simple, first, average or max", choices=STRATEGIES
    )
    ignore_labels: tuple[str, ...] = option("labels to leave out, a,b", read=comma_separated)
    stride: int = option(
        "tokens that two windows of a long text share; -1 truncates long texts instead", least=-1
    )
    delimiter: str = option("put between the words of a list, for start and end")

    def __post_init__(self) -> None:
        check_settings(self)


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "aggregation_strategy": "none",
        "ignore_labels": ("O",),
        "stride": -1,
        "delimiter": " ",
    }


def _check(model_config: ModelConfig, options: TokenClassificationOptions, columns: int) -> None:
    if not model_config.labels:
        raise BundleError("the bundle names no labels", "export the model again")


def _window(options: TokenClassificationOptions) -> int:
    return WINDOW_OF_SCORES if options.aggregation_strategy == AVERAGE else WINDOW


def _encode(rows: Rows, context: Context) -> Encoded:
    """The windows of each text, or the truncated text; none where it has no tokens."""
    texts, layout = rows.texts[0], context.tokenizer.single_layout
    words, stride = pa.types.is_list(texts.type), _stride(context)
    most = context.tokenizer.max_length if stride is None else 0
    raw = context.tokenizer.tokens(texts, most=most)
    tokens, sentences = (
        _in_sentences(raw, texts, context.options.delimiter) if words else (raw, texts)
    )
    lengths = tokens.ids.lengths
    filled = np.flatnonzero(lengths > 0)
    position = np.arange(len(tokens.words)) - np.repeat(tokens.ids.offsets[:-1], lengths)
    whole = Tokens(Ragged.of(tokens.ids.values, lengths[filled]), tokens.chars, position)
    length, side = context.tokenizer.max_length, context.tokenizer.side
    pieces = chunking.single(whole, layout, max_length=length, stride=stride, side=side)
    grouped = context.options.aggregation_strategy != "none"
    if grouped and context.tokenizer.widens_first_token[words]:
        _widen(pieces, whole.ids.offsets, raw.chars, context)
    truncated = np.zeros(len(rows), np.bool_)
    truncated[filled] = pieces.truncated
    extra = {
        "sentences": sentences,
        "inside": pieces.sides == 0,
        "chars": pieces.chars.astype(np.int32),
        # As if the text were one sequence, whatever its windows.
        "index": (pieces.words + len(layout.special[0])).astype(np.int32),
    }
    types = pieces.type_ids if context.type_ids else None
    return Encoded(rows, pieces.ids, types, truncated, filled[pieces.owners], extra)


def _stride(context: Context) -> int | None:
    stride, tokenizer = context.options.stride, context.tokenizer
    window = tokenizer.max_length - tokenizer.single_layout.count
    if stride >= window:
        raise SettingsError(
            f"stride is {stride}",
            f"less than {window}, the tokens of a window without special tokens",
        )
    return stride if stride >= 0 else None


def _widen(pieces: chunking.Pieces, offsets: Ints, chars: Ints, context: Context) -> None:
    """Let the first token of every window that begins within its text begin at the space before it.

    The pipeline's tokenizer does so, and its spans begin there.

    Args:
        pieces: The windows; changed in place.
        offsets, chars: Of the tokens of whole texts, as in `Tokens`.
    """
    layout = context.tokenizer.single_layout
    later = np.flatnonzero(pieces.ids.lengths > layout.count)
    later = later[pieces.words[pieces.ids.offsets[later] + len(layout.special[0])] > 0]
    first = pieces.ids.offsets[later] + len(layout.special[0])
    inner = chars[offsets[pieces.owners[later]] + pieces.words[first], 0] > 0
    tokens = context.tokenizer.tokens_of(pieces.ids.values[first])
    spaced = np.array([token.startswith(SPACE) for token in tokens], np.bool_)
    wider = first[spaced & inner]
    empty = pieces.chars[wider, 0] == pieces.chars[wider, 1]
    pieces.chars[wider, 0] -= 1
    pieces.chars[wider[empty], 1] -= 1


def _in_sentences(
    tokens: Tokens, texts: pa.ListArray, delimiter: str
) -> tuple[Tokens, pa.StringArray]:
    """Tokens of words with their positions in the joined words, and the joined words."""
    counts = np.asarray(pc.list_value_length(texts), np.int64)
    steps = np.asarray(pc.utf8_length(texts.flatten()), np.int64) + len(delimiter)
    ends = np.concatenate(([0], np.cumsum(steps)))
    first = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(counts)), tokens.ids.lengths)
    shift = ends[first[rows] + np.maximum(tokens.words, 0)] - ends[first[rows]]
    chars = tokens.chars + np.where(tokens.words < 0, 0, shift)[:, None]
    return Tokens(tokens.ids, chars, tokens.words), pc.binary_join(texts, delimiter)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    """The best label of each token and its score; the scores of all labels for averaging."""
    (value,) = backend.graph("model").run(feeds, ["logits"])
    logits = Ragged.of_padded(backend.host(value), feeds["attention_mask"].sum(axis=1))
    scores = softmax(logits.values.astype(np.float32, copy=False))
    if context.options.aggregation_strategy == AVERAGE:
        return {"scores": Ragged(scores, logits.offsets)}
    label, score = _best(scores)
    return {"label": Ragged(label, logits.offsets), "score": Ragged(score, logits.offsets)}


def _best(scores: Floats) -> tuple[Ints, Floats]:
    label = scores.argmax(axis=-1)
    return label, np.take_along_axis(scores, label[:, None], axis=-1)[:, 0]


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Spans of adjacent tokens: tokens, words or entities.

    Attributes:
        sequence: The sequence of each span, int64 (spans,).
        first, last: First and last token (inclusive), as positions among all tokens of the window,
            int64 (spans,).
        label: Int64 (spans,).
        score: Float32 (spans,).
    """

    sequence: Ints
    first: Ints
    last: Ints
    label: Ints
    score: Floats

    def take(self, index: Ints | Flags) -> TokenSpans:
        names = ("sequence", "first", "last", "label", "score")
        return TokenSpans(*(getattr(self, name)[index] for name in names))

    def joined(self, starts: Ints, label: Ints, score: Floats) -> TokenSpans:
        """Join the spans from each of `starts` up to the next, with these labels and scores."""
        stops = np.append(starts[1:], len(self.first))
        return TokenSpans(
            self.sequence[starts], self.first[starts], self.last[stops - 1], label, score
        )

    def begin(self, others: Flags) -> Ints:
        """The first span of each sequence, and those that `others` marks."""
        marked = others.copy()
        marked[:1] = True
        marked[1:] |= self.sequence[1:] != self.sequence[:-1]
        return np.flatnonzero(marked)


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    strategy, labels = context.options.aggregation_strategy, context.model_config.labels
    if not arrays:
        return [pa.array([[]] * len(window.rows), _kind(context.options))]
    units = _tokens(window, arrays)
    names, heads = list(labels), None
    if strategy in BY_WORD:
        starts = units.begin(~_continues_word(units, window, context))
        units = CHOICES[strategy](units, starts, arrays)
        heads = units.first
    if strategy != "none":
        units = _entities(units, labels)
        names = [label.split("-", 1)[-1] for label in labels]
    shown = np.array([name not in context.options.ignore_labels for name in names], np.bool_)
    spans = units.take(shown[units.label])
    if len(window.owners) > len(np.unique(window.owners)):
        spans = _each_once(spans, window) if strategy == "none" else _longest(spans, window)
    entities = pa.array(names, pa.string()).take(pa.array(spans.label))
    return [_by_row(spans, entities, heads, window, context)]


def _tokens(window: Encoded, arrays: Arrays) -> TokenSpans:
    """Each token that is not special, as a span."""
    tokens = np.flatnonzero(window.extra["inside"])
    sequence = np.repeat(np.arange(len(window.ids)), window.ids.lengths)[tokens]
    if "scores" in arrays:
        # Words get label and score later.
        label, score = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.float32)
    else:
        label, score = (ragged(arrays, name).values[tokens] for name in ("label", "score"))
    return TokenSpans(sequence, tokens, tokens, label, score)


def _continues_word(tokens: TokenSpans, window: Encoded, context: Context) -> Flags:
    """Which tokens continue a word.

    With a tokenizer that marks such tokens, those longer than their text; otherwise decided by the
    spaces around them.
    """
    ids, chars = window.ids.values[tokens.first], window.extra["chars"][tokens.first]
    if context.tokenizer.subword_prefix:
        unique, which = np.unique(ids, return_inverse=True)
        lengths = np.array([len(t) for t in context.tokenizer.tokens_of(unique)], np.int64)
        continues = lengths[which] != chars[:, 1] - chars[:, 0]
    else:
        rows = window.owners[tokens.sequence]
        continues = _inside_words(window.extra["sentences"], rows, chars[:, 0].astype(np.int64))
    return np.asarray(continues & (ids != context.model_config.unk_id))


def _inside_words(sentences: pa.StringArray, rows: Ints, chars: Ints) -> Flags:
    """Which characters are neither a space, nor after one, nor the first of their sentence."""
    data = np.frombuffer("".join(sentences.to_pylist()).encode(), np.uint8)
    # A character's first byte; the others are 10xxxxxx.
    spaces = np.append(data[data & 0xC0 != 0x80] == ord(" "), False)
    ends = np.cumsum(np.asarray(pc.utf8_length(sentences), np.int64))
    lengths = np.diff(ends, prepend=0)[rows]
    index = ends[rows] - lengths + chars
    after_space = spaces[np.maximum(index - 1, 0)] & (chars > 0)
    return np.asarray((chars > 0) & ~after_space & ~(spaces[index] & (chars < lengths)))


def _by_first(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with the label and score of their first token."""
    return tokens.joined(starts, tokens.label[starts], tokens.score[starts])


def _by_max(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with the label and score of their highest-scoring token, the first of equal ones."""
    if not len(starts):
        return tokens
    counts = np.diff(np.append(starts, len(tokens.first)))
    highest = np.repeat(np.maximum.reduceat(tokens.score, starts), counts)
    # Not `score >= highest`: a word of NaN scores must have a label, too.
    candidates = np.flatnonzero(~(tokens.score < highest))
    best = candidates[np.searchsorted(candidates, starts)]
    return tokens.joined(starts, tokens.label[best], tokens.score[best])


def _by_average(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with the label that has the highest mean score over their tokens."""
    if not len(starts):
        return tokens
    scores = ragged(arrays, "scores").values[tokens.first]
    counts = np.diff(np.append(starts, len(tokens.first)))
    means: Floats = np.add.reduceat(scores, starts, axis=0)
    means /= counts[:, None]
    return tokens.joined(starts, *_best(means))


CHOICES: Mapping[str, Callable[[TokenSpans, Ints, Arrays], TokenSpans]] = {
    "first": _by_first,
    AVERAGE: _by_average,
    "max": _by_max,
}


def _entities(units: TokenSpans, labels: tuple[str, ...]) -> TokenSpans:
    """Join neighbours with the same tag, unless the label of the later one starts with B-."""
    tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    tag = np.unique(tags, return_inverse=True)[1][units.label]
    begins = np.array([label.startswith("B-") for label in labels], np.bool_)[units.label]
    begins[1:] |= tag[1:] != tag[:-1]
    starts = units.begin(begins)
    counts = np.diff(np.append(starts, len(units.first)))
    return units.joined(starts, units.label[starts], _means(units.score, starts, counts))


def _means(scores: Floats, starts: Ints, counts: Ints) -> Floats:
    """The mean of `counts` scores from each of `starts`, rounded as numpy.mean does for a list."""
    out = np.zeros(len(starts), np.float32)
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        out[which] = scores[starts[which][:, None] + np.arange(count)].mean(axis=1)
    return out


def _each_once(tokens: TokenSpans, window: Encoded) -> TokenSpans:
    """Of a token that is in several windows, the one with the highest score."""
    rows, index = window.owners[tokens.sequence], window.extra["index"][tokens.first]
    order = np.lexsort((-tokens.score, index, rows))
    rows, index = rows[order], index[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (index[1:] != index[:-1])
    return tokens.take(order[new])


def _longest(entities: TokenSpans, window: Encoded) -> TokenSpans:
    """Of entities that overlap in a text of several windows, the longest with the best score."""
    rows = window.owners[entities.sequence]
    several = np.bincount(window.owners, minlength=len(window.rows)) > 1
    begin = window.extra["chars"][entities.first, 0]
    end = window.extra["chars"][entities.last, 1]
    parts = [np.flatnonzero(~several[rows])]
    for row in np.unique(rows[several[rows]]):
        of_row = np.arange(*np.searchsorted(rows, (row, row + 1)))
        scores = entities.score[of_row]
        parts.append(of_row[_without_overlaps(begin[of_row], end[of_row], scores)])
    index = np.concatenate(parts)
    return entities.take(index[np.argsort(rows[index], kind="stable")])


def _without_overlaps(begin: Ints, end: Ints, score: Floats) -> list[int]:
    """The pipeline's aggregate_overlapping_entities, step by step.

    It compares only with the current best entity, and repeats an empty entity that comes first.
    """
    order = np.argsort(begin, kind="stable").tolist()
    chosen, best = [], order[0]
    for i in order:
        if begin[best] <= begin[i] < end[best]:
            longer = (end[i] - begin[i]) - (end[best] - begin[best])
            if longer > 0 or (longer == 0 and score[i] > score[best]):
                best = i
        else:
            chosen.append(best)
            best = i
    return [*chosen, best]


def _by_row(
    spans: TokenSpans, names: pa.StringArray, heads: Ints | None, window: Encoded, context: Context
) -> pa.ListArray:
    kind = _kind(context.options)
    chars, index = window.extra["chars"], window.extra["index"]
    columns = {
        "entity": names,
        "entity_group": names,
        "score": pa.array(spans.score, pa.float32()),
        "index": pa.array(index[spans.first], pa.int32()),
        "word": pa.array(_words(spans, heads, window, context), pa.string()),
        "start": pa.array(chars[spans.first, 0], pa.int32()),
        "end": pa.array(chars[spans.last, 1], pa.int32()),
    }
    fields = list(kind.value_type)
    structs = pa.StructArray.from_arrays([columns[f.name] for f in fields], fields=fields)
    counts = np.bincount(window.owners[spans.sequence], minlength=len(window.rows))
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(kind)


def _words(spans: TokenSpans, heads: Ints | None, window: Encoded, context: Context) -> list[str]:
    """The text of each span: a token as in the vocabulary, an entity decoded.

    Args:
        heads: Positions of the first tokens of words, where each word is decoded on its own.
    """
    if not len(spans.first):
        return []
    counts = spans.last - spans.first + 1
    offsets = np.concatenate(([0], np.cumsum(counts)))
    tokens = np.arange(offsets[-1]) + np.repeat(spans.first - offsets[:-1], counts)
    spelled = _spelled(tokens, np.repeat(spans.sequence, counts), window, context)
    if context.options.aggregation_strategy == "none":
        return spelled
    joined = context.tokenizer.joined
    if heads is not None:
        starts = np.flatnonzero(np.isin(tokens, heads))
        spelled = [joined(word) for word in _cut(spelled, starts)]
        offsets = np.searchsorted(starts, offsets)
    return [joined(entity) for entity in _cut(spelled, offsets[:-1])]


def _cut(tokens: list[str], starts: Ints) -> list[list[str]]:
    """Lists from each of `starts` up to the next."""
    return [tokens[a:b] for a, b in pairwise([*starts.tolist(), len(tokens)])]


def _spelled(tokens: Ints, sequence: Ints, window: Encoded, context: Context) -> list[str]:
    """Tokens as in the vocabulary; for unknown ones the text itself."""
    ids = window.ids.values[tokens]
    unique, which = np.unique(ids, return_inverse=True)
    vocabulary = context.tokenizer.tokens_of(unique)
    spelled = [vocabulary[w] for w in which.tolist()]
    for n in np.flatnonzero(ids == context.model_config.unk_id).tolist():
        sentence = window.extra["sentences"][int(window.owners[sequence[n]])].as_py()
        start, end = window.extra["chars"][tokens[n]].tolist()
        spelled[n] = sentence[start:end]
    return spelled


def _kind(options: TokenClassificationOptions) -> pa.ListType:
    if options.aggregation_strategy == "none":
        fields = [("entity", pa.string()), ("score", pa.float32()), ("index", pa.int32())]
    else:
        fields = [("entity_group", pa.string()), ("score", pa.float32())]
    fields += [("word", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
    return pa.list_(pa.struct(fields))


def _schema(model_config: ModelConfig, options: TokenClassificationOptions) -> pa.Schema:
    return pa.schema([("entities", _kind(options))])


TASK = Task(
    name="token-classification",
    aliases=("ner",),
    summary="named entities, or a label for each token, with their positions in the text",
    inputs=(Column("text", holds="either"),),
    batch_tokens=2048,
    options=TokenClassificationOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result=(
        "entities: list<struct<entity_group: string, score: float32, word: string, start: int32, "
        "end: int32>>, characters of the text, or of the words with the delimiter between them; "
        "with aggregation none entity in place of entity_group, and index: int32, the token's"
    ),
    window=_window,
    check=_check,
)
