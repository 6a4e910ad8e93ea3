"""A tokenizer that has only a slow form in transformers, a sentencepiece model with ids of its own,
for the `tokenizers` library.

Whatever the family, its ids, its special tokens and where they stand are asked of the slow
tokenizer itself. The segmentation is written after sentencepiece's own code: spaces are trimmed and
joined, one is put before each text, and the whole text is segmented by score. A piece of the
vocabulary that sentencepiece cannot produce carries a mark, which no text has and the decoder takes
off, so that it is not found in a text either.

`tokenizer_proof` compares both forms; what differs in rare texts is the table of normalizations,
which the library applies to clusters of characters.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ExportError

# Code points that Unicode keeps free of characters: they stand in no text. The first two number
# tokens, the third is a run of characters that sentencepiece does not know, and the fourth a SPACE
# that it would not decode.
_MARKS = ("\ufdd0", "\ufdd1")
_UNKNOWN, _LITERAL = "\ufdd2", "\ufdd3"
SPACE = "\u2581"
# What Python's strip takes away.
_OUTER_SPACE = r"\A[\s\x1c-\x1f]+|[\s\x1c-\x1f]+\z"
UNIGRAM, BPE = 1, 2
_SHORT_CODES = "FAIRSEQ_LANGUAGE_CODES_MAP"


def processor(slow: Any) -> Any:
    """The one sentencepiece model of a slow tokenizer, None where it has none or several."""
    from sentencepiece import SentencePieceProcessor

    models = [value for value in vars(slow).values() if isinstance(value, SentencePieceProcessor)]
    return models[0] if len(models) == 1 else None


def pieces(slow: Any) -> list[str]:
    """The pieces that a text can be cut into."""
    return list(_scores(model_proto(processor(slow))))


def fast(slow: Any, size: int) -> Any:
    """A PreTrainedTokenizerFast that encodes and decodes as `slow` does.

    Args:
        slow: A tokenizer of transformers with a `processor`, whose tokens are its pieces.
        size: Ids that the model has; those without a token are unknown tokens.

    Raises:
        ExportError: sentencepiece can produce a piece that has no id of its own, or its model is of
            a kind that the library lacks.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary = _vocabulary(slow, size)
    backend = _backend(slow, vocabulary)
    speaks = getattr(slow, "src_lang", None) and hasattr(slow, "_build_translation_inputs")
    kind = _with_languages() if speaks else PreTrainedTokenizerFast
    named = {
        name: slow.special_tokens_map[name]
        for name in slow.special_tokens_map
        if name != "additional_special_tokens"
    }
    tokenizer = kind(
        tokenizer_object=backend,
        model_max_length=slow.model_max_length,
        model_input_names=list(slow.model_input_names),
        clean_up_tokenization_spaces=slow.clean_up_tokenization_spaces,
        padding_side=slow.padding_side,
        truncation_side=slow.truncation_side,
        additional_special_tokens=list(slow.additional_special_tokens),
        **named,
    )
    tokenizer.slow_form = slow
    return tokenizer


@dataclass(frozen=True)
class _Vocabulary:
    """The tokens by id, with log-probabilities.

    Attributes:
        tokens: By id, under the names that the library gets.
        scores: Of the pieces that sentencepiece can produce, by piece.
        extra: Whether a character that sentencepiece does not know has an id.
        spec: sentencepiece's ModelProto.
    """

    tokens: list[str]
    scores: Mapping[str, float]
    extra: bool
    spec: Any

    @property
    def scored(self) -> list[tuple[str, float]]:
        least = min(self.scores.values())
        return [(token, self.scores.get(token, least)) for token in self.tokens]

    @property
    def splits_at_spaces(self) -> bool:
        """Whether a text can be cut before each space, as no piece has one behind its beginning."""
        return SPACE in self.scores and not any(SPACE in piece[1:] for piece in self.scores)


def _vocabulary(slow: Any, size: int) -> _Vocabulary:
    spec = model_proto(processor(slow))
    normal = _scores(spec)
    ids = {piece: slow.convert_tokens_to_ids(piece) for piece in normal}
    lost = [piece for piece, n in ids.items() if _token(slow, n) != piece]
    if lost:
        raise ExportError(
            f"{len(lost)} of the {len(normal)} pieces of {type(slow).__name__}'s sentencepiece "
            f"model have no id of their own, the first is {lost[0]!r}",
            "one tokenizer.json cannot hold that: export another checkpoint of the family",
        )
    added = set(slow.added_tokens_encoder)
    tokens, extra = [], False
    languages = getattr(slow, "lang_code_to_id", None) or {}
    for n in range(max(size, len(slow), *(1 + n for n in (*ids.values(), *languages.values())))):
        token = _token(slow, n)
        own = bool(token) and slow.convert_tokens_to_ids(token) == n
        single = own and len(token) == 1 and token not in normal
        plain = own and (single or token in added or token in normal)
        extra = extra or single
        tokens.append(token if plain else _marked(token, n, token in normal))
    return _Vocabulary(tokens, normal, extra, spec)


def _scores(spec: Any) -> dict[str, float]:
    """Log-probability of every piece that a text can be cut into."""
    kinds = spec.SentencePiece
    can = (kinds.NORMAL, kinds.USER_DEFINED, kinds.BYTE)
    return {piece.piece: float(piece.score) for piece in spec.pieces if piece.type in can}


def _token(slow: Any, n: int) -> str:
    """The token of an id; "" where there is none: it decodes to nothing, as an unknown token."""
    try:
        token = str(slow.convert_ids_to_tokens(n) or "")
    except (IndexError, KeyError, ValueError, OverflowError):
        return ""
    known = token not in slow.all_special_tokens or slow.convert_tokens_to_ids(token) == n
    return token if known else ""


def _marked(token: str, n: int, piece: bool) -> str:
    """A name that is in no text and decodes to the token, whose spaces count if it is a piece."""
    token = token if piece else token.replace(SPACE, _LITERAL)
    return token + "".join(_MARKS[int(digit)] for digit in f"{n:b}")


def model_proto(spm: Any) -> Any:
    """A SentencePieceProcessor's ModelProto."""
    from transformers.convert_slow_tokenizer import import_protobuf

    spec = import_protobuf().ModelProto()
    spec.ParseFromString(spm.serialized_model_proto())
    return spec


def _backend(slow: Any, vocabulary: _Vocabulary) -> Any:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    backend = Tokenizer(_model(slow, vocabulary))
    backend.normalizer = normalizers.Sequence(normalization(vocabulary.spec, _runs(vocabulary)))
    if vocabulary.splits_at_spaces:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never")
    backend.decoder = _decoder(vocabulary.spec)
    backend.post_processor = template(slow, vocabulary.tokens)
    # In the order of their ids, which they have in the vocabulary already.
    for _, token in sorted(slow.added_tokens_decoder.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    return backend


def _model(slow: Any, vocabulary: _Vocabulary) -> Any:
    from tokenizers import models

    trainer = vocabulary.spec.trainer_spec
    if trainer.model_type == UNIGRAM:
        return models.Unigram(
            vocabulary.scored, slow.unk_token_id, byte_fallback=trainer.byte_fallback
        )
    if trainer.model_type == BPE:
        ids = {token: n for n, token in enumerate(vocabulary.tokens)}
        return models.BPE(
            ids,
            merges(vocabulary.scores),
            unk_token=vocabulary.tokens[slow.unk_token_id],
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    raise ExportError(
        f"{type(slow).__name__}'s sentencepiece model segments by words or characters, "
        "which is not supported",
        "export a checkpoint whose sentencepiece model is of the kind unigram or bpe",
    )


def merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """BPE's merges in the order in which sentencepiece makes them: the best piece first."""
    ordered = sorted(scores, key=lambda piece: -scores[piece])
    rank = {piece: n for n, piece in enumerate(ordered)}
    return [
        (piece[:cut], piece[cut:])
        for piece in ordered
        for cut in sorted(
            (n for n in range(1, len(piece)) if piece[:n] in rank and piece[n:] in rank),
            key=lambda n: (rank[piece[:n]], rank[piece[n:]]),
        )
    ]


def _runs(vocabulary: _Vocabulary) -> str:
    """A pattern of runs of unknown characters, "" where the library joins them well enough.

    To sentencepiece a run is one piece, which is looked up as a whole; to the library a character
    that has an id is a token by itself.
    """
    if not vocabulary.extra:
        return ""
    known = sorted({*"".join(vocabulary.scores), " ", SPACE})
    return f"[^{''.join(map(re.escape, known))}]{{2,}}"


def normalization(spec: Any, unknown_runs: str = "") -> list[Any]:
    """What sentencepiece does to a text before it segments it.

    Args:
        spec: Its ModelProto.
        unknown_runs: A pattern of characters that become one unknown character; "" for none.
    """
    from tokenizers import Regex, normalizers

    rules, steps = spec.normalizer_spec, table(spec)
    if rules.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if unknown_runs:
        steps.append(normalizers.Replace(Regex(unknown_runs), _UNKNOWN))
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return steps


def table(spec: Any) -> list[Any]:
    """sentencepiece's compiled table of normalizations, if it has one."""
    from tokenizers import normalizers

    rules = spec.normalizer_spec
    if not rules.precompiled_charsmap:
        return []
    steps = [normalizers.Precompiled(bytes(rules.precompiled_charsmap))]
    # The library applies the table to clusters of up to 5 bytes and to single characters.
    # sentencepiece applies it to all sequences: with these composed first they agree.
    return [normalizers.NFC(), *steps] if "nfkc" in rules.name else steps


def _decoder(spec: Any) -> Any:
    from tokenizers import Regex, decoders

    fallback = [decoders.ByteFallback()] if spec.trainer_spec.byte_fallback else []
    return decoders.Sequence(
        [
            *fallback,
            decoders.Replace(Regex(f"[{''.join(_MARKS)}]+"), ""),
            decoders.Replace(SPACE, " "),
            decoders.Replace(_LITERAL, SPACE),
            decoders.Fuse(),
            decoders.Replace(Regex(_OUTER_SPACE), ""),
        ]
    )


def template(slow: Any, tokens: Any) -> Any:
    """The special tokens around a text and a pair, as the slow tokenizer puts them.

    Args:
        tokens: Their names by id.
    """
    from tokenizers import processors

    first, second = -1, -2
    single = slow.build_inputs_with_special_tokens([first])
    pair = slow.build_inputs_with_special_tokens([first], [second])
    types = slow.create_token_type_ids_from_sequences([first], [second])
    types = types if len(types) == len(pair) else [0] * len(pair)
    names = {first: "$A", second: "$B"}
    special = sorted({n for n in (*single, *pair) if n >= 0})

    def piece(n: int, kind: int) -> str:
        return f"{names.get(n) or tokens[n]}:{kind}"

    return processors.TemplateProcessing(
        single=[piece(n, 0) for n in single],
        pair=[piece(n, kind) for n, kind in zip(pair, types, strict=True)],
        special_tokens=[(tokens[n], n) for n in special],
    )


def _with_languages() -> Any:
    """A class of fast tokenizers that put the token of a language into each text."""
    from transformers import PreTrainedTokenizerFast

    # transformers is untyped.
    class LanguagesTokenizerFast(PreTrainedTokenizerFast):  # type: ignore[misc]
        """Of M2M100 and its relatives; `slow_form` knows the languages."""

        slow_form: Any

        @property
        def lang_code_to_id(self) -> dict[str, int]:
            codes = dict(self.slow_form.lang_code_to_id)
            # PLBART's pipeline takes python for __python__.
            short = getattr(sys.modules[type(self.slow_form).__module__], _SHORT_CODES, {})
            return codes | {name: codes[code] for name, code in short.items() if code in codes}

        @property
        def tgt_lang(self) -> Any:
            return self.slow_form.tgt_lang

        @property
        def src_lang(self) -> str:
            return str(self.slow_form.src_lang)

        @src_lang.setter
        def src_lang(self, language: str) -> None:
            self.slow_form.src_lang = language
            tokens = [self.convert_ids_to_tokens(n) for n in range(len(self))]
            self.backend_tokenizer.post_processor = template(self.slow_form, tokens)

        def _build_translation_inputs(
            self, texts: Any, src_lang: str, tgt_lang: str, **settings: Any
        ) -> Any:
            self.src_lang = src_lang
            inputs = self(texts, add_special_tokens=True, **settings)
            inputs["forced_bos_token_id"] = self.lang_code_to_id[tgt_lang]
            return inputs

    return LanguagesTokenizerFast
