"""question-answering: the best answers to a question, as spans of a context of any length.

The rules are those of transformers' QuestionAnsweringPipeline (4.57), including its order of equal
scores. Spans with the same text are one answer, whose score is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

from engine.bundle import chunking
from engine.bundle.format import ModelConfig
from engine.core.settings import check_settings, option
from engine.core.types import Arrays, Column, Encoded, Flags, Floats, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.runtime.protocol import Backend
from engine.tasks.task import Context, Task, ragged

Answer = tuple[str, float, int, int]
"""Text, score, and start and end (exclusive) in characters of the context."""

# Fewer rows than usual: a long context has many sequences.
WINDOW = 512
# Values of one array of scores at most, so that it fits into the CPU's cache.
MAX_SCORES = 1 << 18
# The pipeline's logit for a token that cannot be in an answer.
FORBIDDEN = np.float32(-10000)
NO_ANSWER: Answer = ("", 0.0, 0, 0)
COLUMNS = {"answer": pa.string(), "score": pa.float32(), "start": pa.int32(), "end": pa.int32()}


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions:
    """With top_k 1 a row has one answer, otherwise the columns are lists, best first."""

    top_k: int = option("number of best answers", least=1)
    doc_stride: int = option(
        "tokens that two windows of a context share; -1 for half a window, at most 128", least=-1
    )
    max_answer_len: int = option("tokens of an answer at most", least=1)
    max_seq_len: int = option(
        "tokens of question and window; 0 for the model's limit, at most 384", least=0
    )
    handle_impossible_answer: bool = option("allow the empty answer")
    align_to_words: bool = option("answer with whole words where the tokenizer knows them")

    def __post_init__(self) -> None:
        check_settings(self)


def _defaults(model_config: ModelConfig) -> dict[str, object]:
    return {
        "top_k": 1,
        "doc_stride": -1,
        "max_answer_len": 15,
        "max_seq_len": 0,
        "handle_impossible_answer": False,
        "align_to_words": True,
    }


def _encode(rows: Rows, context: Context) -> Encoded:
    """Question and window for each window of a context; none where one of the two is empty.

    A question that leaves no tokens for the windows is truncated.
    """
    length, stride = _sizes(context)
    filled = np.flatnonzero(_filled(rows.texts[0]) & _filled(rows.texts[1]))
    question, passage = (context.tokenizer.tokens(text.take(filled)) for text in rows.texts)
    layout = context.tokenizer.pair_layout
    pieces = chunking.pair(
        question,
        passage,
        layout,
        max_length=length,
        stride=stride,
        side=context.tokenizer.side,
    )
    truncated = np.zeros(len(rows), np.bool_)
    truncated[filled] = pieces.truncated
    inside = pieces.sides == 1
    extra = {
        "inside": inside,
        "allowed": inside | (pieces.ids.values == context.model_config.cls_id),
        "chars": pieces.chars.astype(np.int32),
        "words": pieces.words.astype(np.int32),
    }
    types = pieces.type_ids if context.type_ids else None
    return Encoded(rows, pieces.ids, types, truncated, filled[pieces.owners], extra)


def _filled(texts: pa.Array) -> Flags:
    return np.asarray(pc.greater(pc.binary_length(texts), 0))


def _sizes(context: Context) -> tuple[int, int]:
    """Tokens of a sequence, and tokens that two windows share."""
    options, limit = context.options, context.model_config.position_limit
    length = options.max_seq_len or min(context.tokenizer.max_length, 384)
    if limit and length > limit:
        raise SettingsError(f"max_seq_len is {length}", f"the model has {limit} positions")
    stride = min(length // 2, 128) if options.doc_stride < 0 else options.doc_stride
    if stride > length:
        raise SettingsError(
            f"doc_stride is {stride} and max_seq_len is {length}", "give a smaller doc_stride"
        )
    return length, stride


def _infer(backend: Backend, feeds: Mapping[str, Ints], context: Context) -> Arrays:
    """Start and end logits of each token without padding, float32 (tokens,) for each sequence."""
    logits = backend.graph("model").run(feeds, ["start_logits", "end_logits"])
    lengths = feeds["attention_mask"].sum(axis=1)
    start, end = (Ragged.of_padded(backend.host(v), lengths) for v in logits)
    return {"start": _as_float32(start), "end": _as_float32(end)}


def _as_float32(logits: Ragged) -> Ragged:
    return Ragged(logits.values.astype(np.float32, copy=False), logits.offsets)


@dataclass(frozen=True, slots=True)
class AnswerSpans:
    """Candidates, grouped by sequence, best first.

    Attributes:
        sequence: The sequence of each span, int64 (spans,), ascending.
        start, end: First and last token (inclusive), positions in the sequence, int64 (spans,).
        score: Product of the two probabilities, float32 (spans,).
    """

    sequence: Ints
    start: Ints
    end: Ints
    score: Floats

    def take(self, index: Ints | Flags) -> AnswerSpans:
        return AnswerSpans(
            self.sequence[index], self.start[index], self.end[index], self.score[index]
        )

    @staticmethod
    def concat(parts: list[AnswerSpans]) -> AnswerSpans:
        names = ("sequence", "start", "end", "score")
        return AnswerSpans(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _postprocess(window: Encoded, arrays: Arrays, context: Context) -> list[pa.Array]:
    rows = _answers(window, arrays, context) if arrays else [[] for _ in range(len(window.rows))]
    if context.options.top_k == 1:
        flat, bounds = [row[0] if row else NO_ANSWER for row in rows], None
    else:
        flat = [answer for row in rows for answer in row]
        bounds = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    columns = [pa.array([a[n] for a in flat], kind) for n, kind in enumerate(COLUMNS.values())]
    return columns if bounds is None else [pa.ListArray.from_arrays(bounds, c) for c in columns]


def _answers(window: Encoded, arrays: Arrays, context: Context) -> list[list[Answer]]:
    """The answers of each row, best first."""
    spans, null = _spans(window, arrays, context.options)
    chars = _characters(window, spans, aligned=context.options.align_to_words)
    rows = np.arange(len(window.rows) + 1)
    bounds = np.searchsorted(window.owners[spans.sequence], rows).tolist()
    sequence_bounds = np.searchsorted(window.owners, rows).tolist()
    answers = []
    for text, (a, b), (first, stop) in zip(
        window.rows.texts[1].to_pylist(), pairwise(bounds), pairwise(sequence_bounds), strict=True
    ):
        row = _merged(text, spans.score[a:b], chars[a:b])
        if context.options.handle_impossible_answer and stop > first:
            row.append(("", float(null[first:stop].min()), 0, 0))
        # The sort is stable: of equal scores that of the earlier window comes first.
        row.sort(key=lambda answer: answer[1], reverse=True)
        answers.append(row[: context.options.top_k])
    return answers


def _merged(text: str, scores: Floats, chars: Ints) -> list[Answer]:
    """One answer for each text (ignoring case) among the spans, at the position of the first."""
    answers: dict[str, Answer] = {}
    for score, (start, end) in zip(scores.tolist(), chars.tolist(), strict=True):
        answer = text[start:end]
        first = answers.get(answer.lower(), (answer, 0.0, start, end))
        answers[answer.lower()] = (first[0], first[1] + score, first[2], first[3])
    return list(answers.values())


def _characters(window: Encoded, spans: AnswerSpans, *, aligned: bool) -> Ints:
    """Start and end (exclusive) of each span in characters of its context, int64 (spans, 2).

    With `aligned`, a span grows to whole words, as far as their tokens are in the window. Where one
    end has no word (the CLS token, some tokenizers) the span stays as it is.
    """
    chars, words = window.extra["chars"], window.extra["words"]
    base = window.ids.offsets[spans.sequence]
    ends = np.stack([base + spans.start, base + spans.end], axis=1)
    plain = np.stack([chars[ends[:, 0], 0], chars[ends[:, 1], 1]], axis=1)
    inside = np.flatnonzero(window.extra["inside"])
    if not aligned or not len(inside):
        return plain
    sequences = np.repeat(np.arange(len(window.ids)), window.ids.lengths)
    step = int(words.max()) + 2
    keys = sequences[inside] * step + words[inside] + 1
    end_keys = spans.sequence[:, None] * step + words[ends] + 1
    first = np.searchsorted(keys, end_keys[:, 0], "left")
    last = np.searchsorted(keys, end_keys[:, 1], "right") - 1
    first, last = np.minimum(first, len(keys) - 1), np.maximum(last, 0)
    known = (keys[first] == end_keys[:, 0]) & (keys[last] == end_keys[:, 1])
    known &= (words[ends] >= 0).all(axis=1)
    grown = np.stack([chars[inside[first], 0], chars[inside[last], 1]], axis=1)
    return np.where(known[:, None], grown, plain)


def _spans(
    window: Encoded, arrays: Arrays, options: QuestionAnsweringOptions
) -> tuple[AnswerSpans, Floats]:
    """Candidates of each sequence, and the score of its empty answer, float32 (sequences,)."""
    start, end = ragged(arrays, "start"), ragged(arrays, "end")
    allowed = Ragged(window.extra["allowed"], window.ids.offsets)
    # Some candidates become one answer when they grow to whole words.
    count = 2 * options.top_k + 10 if options.align_to_words else options.top_k
    null = np.zeros(len(start), np.float32)
    parts = []
    for index in _groups(start.lengths, options.max_answer_len):
        group = _Group.of(*(each.take(index) for each in (start, end, allowed)))
        null[index] = group.null
        best = group.best(count, options.max_answer_len)
        parts.append(AnswerSpans(index[best.sequence], best.start, best.end, best.score))
    spans = AnswerSpans.concat(parts)
    return spans.take(np.argsort(spans.sequence, kind="stable")), null


def _groups(lengths: Ints, longest: int) -> Iterator[Ints]:
    """Sequences of similar length, few enough for MAX_SCORES."""
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        width = int(lengths[order[first]])
        stop = first + max(1, MAX_SCORES // max(1, width * min(width, longest)))
        yield order[first:stop]
        first = stop


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences padded to one width.

    Attributes:
        start, end: Probabilities, float32 (sequences, width); 0 for padding and the first token.
        allowed: Tokens at which a span may start or end, bool (sequences, width).
        null: Probability that both ends are the first token, float32 (sequences,).
        lengths: Tokens of each sequence, int64 (sequences,).
    """

    start: Floats
    end: Floats
    allowed: Flags
    null: Floats
    lengths: Ints

    @classmethod
    def of(cls, start: Ragged, end: Ragged, allowed: Ragged) -> _Group:
        lengths = start.lengths
        width = int(lengths.max())
        free = allowed.padded(width, 0)
        real = np.arange(width) < lengths[:, None]
        floor = np.where(real, FORBIDDEN, np.float32(-np.inf))
        first, last = (
            _softmax(np.where(free, logits.padded(width, 0), floor), lengths)
            for logits in (start, end)
        )
        null = first[:, 0] * last[:, 0]
        first[:, 0] = last[:, 0] = 0
        # The pipeline looks for a token in a tuple of row and column numbers, which has a 0 in it.
        free[:, 0] |= free.any(axis=1)
        return cls(first, last, free, null, lengths)

    def best(self, count: int, longest: int) -> AnswerSpans:
        """The `count` best spans of each sequence, of up to `longest` tokens, if allowed."""
        band = min(longest, self.start.shape[1])
        ends = sliding_window_view(np.pad(self.end, ((0, 0), (0, band - 1))), band, axis=1)
        scores = (self.start[:, :, None] * ends).reshape(len(self.start), -1)
        best, clear = _highest(scores, count)
        which = np.flatnonzero(clear)
        flat = best[which].ravel()
        first, further = np.divmod(flat, band)
        sequence = np.repeat(which, best.shape[1])
        parts = [AnswerSpans(sequence, first, first + further, scores[sequence, flat])]
        parts += [self._tied(int(i), count, longest) for i in np.flatnonzero(~clear)]
        spans = AnswerSpans.concat(parts)
        good = self.allowed[spans.sequence, spans.start] & self.allowed[spans.sequence, spans.end]
        return spans.take(good)

    def _tied(self, i: int, count: int, longest: int) -> AnswerSpans:
        """The same for one sequence, with exactly the calls of the pipeline.

        They alone decide which of several equal scores come first, and which impossible spans are
        taken where there are too few possible ones.
        """
        length = int(self.lengths[i])
        outer = np.outer(self.start[i, :length], self.end[i, :length])
        scores = np.tril(np.triu(outer), longest - 1).ravel()
        if len(scores) <= count:
            best = np.argsort(-scores)
        else:
            best = np.argpartition(-scores, count)[:count]
            best = best[np.argsort(-scores[best])]
        first, last = np.divmod(best, length)
        return AnswerSpans(np.full(len(best), i), first, last, scores[best])


def _softmax(logits: Floats, lengths: Ints) -> Floats:
    """For each row; summed at the row's length, because that rounding decides between ties."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums = [row[:length].sum() for row, length in zip(powers, lengths.tolist(), strict=True)]
    return np.asarray(powers / np.array(sums, np.float32)[:, None], np.float32)


def _highest(scores: Floats, count: int) -> tuple[Ints, Flags]:
    """Columns of the `count` highest scores of each row, best first, int64 (rows, count).

    The second array marks the rows where no tie affects choice or order, bool (rows,).
    """
    if count == 1:
        return scores.argmax(axis=1)[:, None], np.ones(len(scores), np.bool_)
    if scores.shape[1] <= count:
        return np.zeros((len(scores), count), np.int64), np.zeros(len(scores), np.bool_)
    best = np.argpartition(-scores, count, axis=1)[:, : count + 1]
    values = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-values, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    clear = np.all(values[:, :-1] > values[:, 1:], axis=1)
    return np.take_along_axis(best, order, axis=1)[:, :count].astype(np.int64), clear


def _schema(model_config: ModelConfig, options: QuestionAnsweringOptions) -> pa.Schema:
    if options.top_k == 1:
        return pa.schema(list(COLUMNS.items()))
    return pa.schema([(f"{name}s", pa.list_(kind)) for name, kind in COLUMNS.items()])


TASK = Task(
    name="question-answering",
    aliases=(),
    summary="the part of a context that answers a question, with its score",
    inputs=(Column("question"), Column("context")),
    batch_tokens=2048,
    options=QuestionAnsweringOptions,
    defaults=_defaults,
    encode=_encode,
    infer=_infer,
    postprocess=_postprocess,
    schema=_schema,
    result=(
        "answer: string, score: float32, start and end: int32, characters of the context; "
        "answers, scores, starts and ends, lists, where top_k is not 1"
    ),
    window=lambda options: WINDOW,
    rereads=True,
)
