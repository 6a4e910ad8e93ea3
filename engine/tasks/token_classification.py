"""token-classification: named entities and other labelled stretches of a text, with their places.

The rules are those of transformers' TokenClassificationPipeline (4.57). Where it refuses a stride
without aggregation, every token is answered once here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, comma_separated, option
from engine.core.types import Arrays, Column, Encoded, Ints, Ragged, Rows, Tokens
from engine.errors import BundleError, SettingsError
from engine.runtime.protocol import Backend
from engine.tasks.task import WINDOW, Context, Task
from engine.tasks.text_classification import softmax

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

AVERAGE = "average"
STRATEGIES = ("none", "simple", "first", AVERAGE, "max")
# Strategies that give all tokens of a word one label.
BY_WORD = ("first", AVERAGE, "max")
# As byte-level vocabularies write it.
SPACE = "Ġ"
# Fewer rows than usual travel together where every token brings the scores of all labels.
WINDOW_OF_SCORES = 1024


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions:
    """`ignore_labels` as one text is split at its commas."""

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
    """Each text in its windows, or cut; nothing where it has no tokens."""
    texts, layout = rows.texts[0], context.tokenizer.alone
    words, stride = pa.types.is_list(texts.type), _stride(context)
    read = context.tokenizer.tokens(texts)
    found, sentences = (
        _in_sentences(read, texts, context.options.delimiter) if words else (read, texts)
    )
    lengths = found.ids.lengths
    filled = np.flatnonzero(lengths > 0)
    place = np.arange(len(found.words)) - np.repeat(found.ids.offsets[:-1], lengths)
    whole = Tokens(Ragged.of(found.ids.values, lengths[filled]), found.chars, place)
    length = context.tokenizer.max_length
    made = chunking.single(whole, layout, max_length=length, stride=stride)
    grouped = context.options.aggregation_strategy != "none"
    if stride is not None and grouped and context.tokenizer.widens[words]:
        _widen(made, whole.ids.offsets, read.chars, context)
    truncated = np.zeros(len(rows), np.bool_)
    truncated[filled] = made.truncated
    extra = {
        "sentences": sentences,
        "inside": made.sides == 0,
        "chars": made.chars.astype(np.int32),
        # As if the text were one sequence, however many windows it has.
        "index": (made.words + len(layout.special[0])).astype(np.int32),
    }
    types = made.type_ids if context.type_ids else None
    return Encoded(rows, made.ids, types, truncated, filled[made.owners], extra)


def _stride(context: Context) -> int | None:
    stride, room = context.options.stride, context.tokenizer.max_length
    room -= context.tokenizer.alone.count
    if stride >= room:
        raise SettingsError(
            f"stride is {stride}", f"less than {room}, the tokens of a window without special ones"
        )
    return stride if stride >= 0 else None


def _widen(made: chunking.Pieces, offsets: Ints, chars: Ints, context: Context) -> None:
    """Let the first token of every window but a row's first begin at the space before it.

    The pipeline's tokenizer does so, and its spans begin there.

    Args:
        offsets, chars: Of the whole texts' tokens, as `flow.Tokens` has them.
    """
    again = np.flatnonzero(made.owners[1:] == made.owners[:-1]) + 1
    first = made.ids.offsets[again] + len(context.tokenizer.alone.special[0])
    inner = chars[offsets[made.owners[again]] + made.words[first], 0] > 0
    tokens = context.tokenizer.tokens_of(made.ids.values[first])
    spaced = np.array([token.startswith(SPACE) for token in tokens], np.bool_)
    moved = first[spaced & inner]
    empty = made.chars[moved, 0] == made.chars[moved, 1]
    made.chars[moved, 0] -= 1
    made.chars[moved[empty], 1] -= 1


def _in_sentences(
    found: Tokens, texts: pa.ListArray, delimiter: str
) -> tuple[Tokens, pa.StringArray]:
    """Tokens of words with their places in the words joined, and the words so joined."""
    counts = np.asarray(pc.list_value_length(texts), np.int64)
    steps = np.asarray(pc.utf8_length(texts.flatten()), np.int64) + len(delimiter)
    ends = np.concatenate(([0], np.cumsum(steps)))
    first = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(counts)), found.ids.lengths)
    moved = ends[first[rows] + np.maximum(found.words, 0)] - ends[first[rows]]
    chars = found.chars + np.where(found.words < 0, 0, moved)[:, None]
    return Tokens(found.ids, chars, found.words), pc.binary_join(texts, delimiter)


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    """The best label of every real token and its score; all scores where they are averaged."""
    (value,) = backend.graph("model").run(feeds, ["logits"])
    kept = Ragged.of_padded(backend.host(value), feeds["attention_mask"].sum(axis=1))
    scores = softmax(kept.values.astype(np.float32, copy=False))
    if context.options.aggregation_strategy == AVERAGE:
        return {"scores": Ragged(scores, kept.offsets)}
    label, score = _best(scores)
    return {"label": Ragged(label, kept.offsets), "score": Ragged(score, kept.offsets)}


def _best(scores: Floats) -> tuple[Ints, Floats]:
    label = scores.argmax(axis=-1)
    return label, np.take_along_axis(scores, label[:, None], axis=-1)[:, 0]


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Tokens that follow one another, as tokens, words or entities.

    Attributes:
        sequence: Which one they are of, int64 (spans,).
        first, last: Their tokens, as places among all tokens of the window, int64 (spans,).
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
        """Those from each of `starts` to the next as one, with a label and a score for each."""
        stops = np.append(starts[1:], len(self.first))
        return TokenSpans(
            self.sequence[starts], self.first[starts], self.last[stops - 1], label, score
        )

    def begin(self, others: Flags) -> Ints:
        """The first of each sequence, and those that `others` marks."""
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
        starts = units.begin(~_go_on(units, window, context))
        units = CHOICES[strategy](units, starts, arrays)
        heads = units.first
    if strategy != "none":
        units = _entities(units, labels)
        names = [label.split("-", 1)[-1] for label in labels]
    wanted = np.array([name not in context.options.ignore_labels for name in names], np.bool_)
    found = units.take(wanted[units.label])
    if len(window.owners) > len(np.unique(window.owners)):
        found = _each_once(found, window) if strategy == "none" else _longest(found, window)
    named = pa.array(names, pa.string()).take(pa.array(found.label))
    return [_by_row(found, named, heads, window, context)]


def _tokens(window: Encoded, arrays: Arrays) -> TokenSpans:
    """Every token that is not special."""
    places = np.flatnonzero(window.extra["inside"])
    sequence = np.repeat(np.arange(len(window.ids)), window.ids.lengths)[places]
    if "scores" in arrays:
        # Words get theirs later.
        label, score = np.zeros(len(places), np.int64), np.zeros(len(places), np.float32)
    else:
        label, score = (_values(arrays, name)[places] for name in ("label", "score"))
    return TokenSpans(sequence, places, places, label, score)


def _values(arrays: Arrays, name: str) -> NDArray[Any]:
    found = arrays[name]
    assert isinstance(found, Ragged)
    return found.values


def _go_on(tokens: TokenSpans, window: Encoded, context: Context) -> Flags:
    """Which tokens go on with a word.

    Where the tokenizer marks them they are longer than their text; else by the spaces around.
    """
    ids, chars = window.ids.values[tokens.first], window.extra["chars"][tokens.first]
    if context.tokenizer.subword_prefix:
        known, which = np.unique(ids, return_inverse=True)
        lengths = np.array([len(t) for t in context.tokenizer.tokens_of(known)], np.int64)
        going = lengths[which] != chars[:, 1] - chars[:, 0]
    else:
        rows = window.owners[tokens.sequence]
        going = _inside_words(window.extra["sentences"], rows, chars[:, 0].astype(np.int64))
    return np.asarray(going & (ids != context.model_config.unk_id))


def _inside_words(sentences: pa.StringArray, rows: Ints, chars: Ints) -> Flags:
    """Which characters are not their sentence's first, no space, and not behind one."""
    data = np.frombuffer("".join(sentences.to_pylist()).encode(), np.uint8)
    # A character's first byte; the others are 10xxxxxx.
    spaces = np.append(data[data & 0xC0 != 0x80] == ord(" "), False)
    ends = np.cumsum(np.asarray(pc.utf8_length(sentences), np.int64))
    lengths = np.diff(ends, prepend=0)[rows]
    here = ends[rows] - lengths + chars
    behind = spaces[np.maximum(here - 1, 0)] & (chars > 0)
    return np.asarray((chars > 0) & ~behind & ~(spaces[here] & (chars < lengths)))


def _by_first(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with what their first token has."""
    return tokens.joined(starts, tokens.label[starts], tokens.score[starts])


def _by_max(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with what their surest token has, the first of equals."""
    if not len(starts):
        return tokens
    counts = np.diff(np.append(starts, len(tokens.first)))
    highest = np.repeat(np.maximum.reduceat(tokens.score, starts), counts)
    # So written, NaN passes: a word of them has its label, too.
    surest = np.flatnonzero(~(tokens.score < highest))
    chosen = surest[np.searchsorted(surest, starts)]
    return tokens.joined(starts, tokens.label[chosen], tokens.score[chosen])


def _by_average(tokens: TokenSpans, starts: Ints, arrays: Arrays) -> TokenSpans:
    """Words with the best of their tokens' mean scores."""
    if not len(starts):
        return tokens
    scores = _values(arrays, "scores")[tokens.first]
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
    """Neighbours of one tag as one, unless the later one's label starts with B-."""
    tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    tag = np.unique(tags, return_inverse=True)[1][units.label]
    begins = np.array([label.startswith("B-") for label in labels], np.bool_)[units.label]
    begins[1:] |= tag[1:] != tag[:-1]
    starts = units.begin(begins)
    counts = np.diff(np.append(starts, len(units.first)))
    return units.joined(starts, units.label[starts], _means(units.score, starts, counts))


def _means(scores: Floats, starts: Ints, counts: Ints) -> Floats:
    """Of `counts` scores from each of `starts`, as numpy.mean adds up a list of them."""
    out = np.zeros(len(starts), np.float32)
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        out[which] = scores[starts[which][:, None] + np.arange(count)].mean(axis=1)
    return out


def _each_once(found: TokenSpans, window: Encoded) -> TokenSpans:
    """A token that several windows see as the surest of them has it."""
    rows, index = window.owners[found.sequence], window.extra["index"][found.first]
    order = np.lexsort((-found.score, index, rows))
    rows, index = rows[order], index[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (index[1:] != index[:-1])
    return found.take(order[new])


def _longest(found: TokenSpans, window: Encoded) -> TokenSpans:
    """Of entities that overlap in a text of several windows, the longest, then the surest."""
    rows = window.owners[found.sequence]
    several = np.bincount(window.owners, minlength=len(window.rows)) > 1
    begin = window.extra["chars"][found.first, 0]
    end = window.extra["chars"][found.last, 1]
    chosen = [np.flatnonzero(~several[rows])]
    for row in np.unique(rows[several[rows]]):
        own = np.arange(*np.searchsorted(rows, (row, row + 1)))
        chosen.append(own[_without_overlaps(begin[own], end[own], found.score[own])])
    index = np.concatenate(chosen)
    return found.take(index[np.argsort(rows[index], kind="stable")])


def _without_overlaps(begin: Ints, end: Ints, score: Floats) -> list[int]:
    """The pipeline's aggregate_overlapping_entities, step by step.

    It compares with the entity kept last alone, and gives an empty one that comes first twice.
    """
    order = np.argsort(begin, kind="stable").tolist()
    kept, best = [], order[0]
    for i in order:
        if begin[best] <= begin[i] < end[best]:
            longer = (end[i] - begin[i]) - (end[best] - begin[best])
            if longer > 0 or (longer == 0 and score[i] > score[best]):
                best = i
        else:
            kept.append(best)
            best = i
    return [*kept, best]


def _by_row(
    found: TokenSpans, names: pa.StringArray, heads: Ints | None, window: Encoded, context: Context
) -> pa.ListArray:
    kind = _kind(context.options)
    chars, index = window.extra["chars"], window.extra["index"]
    columns = {
        "entity": names,
        "entity_group": names,
        "score": pa.array(found.score, pa.float32()),
        "index": pa.array(index[found.first], pa.int32()),
        "word": pa.array(_words(found, heads, window, context), pa.string()),
        "start": pa.array(chars[found.first, 0], pa.int32()),
        "end": pa.array(chars[found.last, 1], pa.int32()),
    }
    fields = list(kind.value_type)
    structs = pa.StructArray.from_arrays([columns[f.name] for f in fields], fields=fields)
    counts = np.bincount(window.owners[found.sequence], minlength=len(window.rows))
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(kind)


def _words(found: TokenSpans, heads: Ints | None, window: Encoded, context: Context) -> list[str]:
    """What the spans' tokens say: a token as the vocabulary has it, an entity as a text.

    Args:
        heads: Places of the words' first tokens, where the words are made texts before the entity.
    """
    if not len(found.first):
        return []
    counts = found.last - found.first + 1
    offsets = np.concatenate(([0], np.cumsum(counts)))
    places = np.arange(offsets[-1]) + np.repeat(found.first - offsets[:-1], counts)
    spelled = _spelled(places, np.repeat(found.sequence, counts), window, context)
    if context.options.aggregation_strategy == "none":
        return spelled
    joined = context.tokenizer.joined
    if heads is not None:
        starts = np.flatnonzero(np.isin(places, heads))
        spelled = [joined(word) for word in _cut(spelled, starts)]
        offsets = np.searchsorted(starts, offsets)
    return [joined(entity) for entity in _cut(spelled, offsets[:-1])]


def _cut(tokens: list[str], starts: Ints) -> list[list[str]]:
    """From each of `starts` to the next."""
    return [tokens[a:b] for a, b in pairwise([*starts.tolist(), len(tokens)])]


def _spelled(places: Ints, sequence: Ints, window: Encoded, context: Context) -> list[str]:
    """Tokens as the vocabulary has them, and the text itself for those that it does not have."""
    ids = window.ids.values[places]
    known, which = np.unique(ids, return_inverse=True)
    vocabulary = context.tokenizer.tokens_of(known)
    spelled = [vocabulary[w] for w in which.tolist()]
    for n in np.flatnonzero(ids == context.model_config.unk_id).tolist():
        sentence = window.extra["sentences"][int(window.owners[sequence[n]])].as_py()
        start, end = window.extra["chars"][places[n]].tolist()
        spelled[n] = sentence[start:end]
    return spelled


def _kind(options: TokenClassificationOptions) -> pa.ListType:
    if options.aggregation_strategy == "none":
        fields = [("entity", pa.string()), ("score", pa.float32()), ("index", pa.int32())]
    else:
        fields = [("entity_group", pa.string()), ("score", pa.float32())]
    fields += [("word", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
    return pa.list_(pa.struct(fields))


def _schema(context: Context) -> pa.Schema:
    return pa.schema([("entities", _kind(context.options))])


TASK = Task(
    name="token-classification",
    aliases=("ner",),
    summary="named entities, or a label for each token, with their places in the text",
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
