"""Marian's tokenizer for the `tokenizers` library; transformers has no such conversion.

It segments a text with source.spm, looks the pieces up in vocab.json, whose ids the target's pieces
share, and decodes with all of them. A unigram model over vocab.json with the source's scores, or
its merges where it is of the kind BPE, does the same if the target's own pieces cannot be found in
a text: each of them carries a mark, which the decoder takes off. A run of characters that
source.spm does not know is one piece to it: a single one is looked up like any other, so the
target's single characters go without the mark, and a longer run becomes one unknown character.

Two rare cases differ: such a longer run is unknown even where that very run is a piece of the
target, and a language code (>>deu<<) counts wherever it stands, not at the start alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import sentencepiece_tokenizer
from engine.export.sentences import SENTENCES

# Code points that Unicode keeps free of characters: they stand in no text.
MARK = "\ufdd0"
UNKNOWN = "\ufdd1"
_SPACE = "▁"


def fast(slow: Any) -> Any:
    """A PreTrainedTokenizerFast that encodes a source and decodes a target as `slow` does.

    Args:
        slow: A MarianTokenizer.

    Raises:
        ExportError: The vocabularies of both sides are separate, or the ids differ.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    if slow.separate_vocabs:
        raise ExportError(
            "the tokenizer has a vocabulary for each side (separate_vocabs), "
            "which one tokenizer.json cannot hold",
            "export a Marian checkpoint with one vocab.json",
        )
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(slow),
        unk_token=slow.unk_token,
        eos_token=slow.eos_token,
        pad_token=slow.pad_token,
        model_max_length=slow.model_max_length,
        model_input_names=list(slow.model_input_names),
        clean_up_tokenization_spaces=slow.clean_up_tokenization_spaces,
    )
    codes = slow.supported_language_codes
    fast_tokenizer.add_tokens([AddedToken(code, normalized=False) for code in codes])
    if any(fast_tokenizer(text).input_ids != slow(text).input_ids for text in SENTENCES):
        raise ExportError(
            "Marian's tokenizer, converted for the tokenizers library, gives other ids",
            "export another checkpoint, and please report this one",
        )
    return fast_tokenizer


def _backend(slow: Any) -> Any:
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    scores = _scores(slow.spm_source)
    vocabulary = _vocabulary(slow, scores)
    known = "".join(sorted(re.escape(c) for c in {*"".join(scores), " ", _SPACE}))
    spec = sentencepiece_tokenizer.model_proto(slow.spm_source)
    if spec.trainer_spec.model_type == sentencepiece_tokenizer.BPE:
        tokenizer = Tokenizer(_pairs(slow, vocabulary, scores))
    else:
        tokenizer = Tokenizer(models.Unigram(vocabulary, slow.unk_token_id, byte_fallback=False))
    steps = [
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), _SPACE),
        normalizers.Replace(Regex(f"[^{known}]{{2,}}"), UNKNOWN),
    ]
    steps = [*sentencepiece_tokenizer.table(spec), *steps]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, ""),
            decoders.Replace(_SPACE, " "),
            decoders.Fuse(),
            # Marian's decode strips its text.
            decoders.Replace(Regex(r"\A\s+|\s+\z"), ""),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {slow.eos_token}",
        pair=f"$A $B {slow.eos_token}",
        special_tokens=[(slow.eos_token, slow.eos_token_id)],
    )
    return tokenizer


def _pairs(slow: Any, vocabulary: list[tuple[str, float]], scores: Mapping[str, float]) -> Any:
    """The model where the source's pieces were trained as byte pair encoding: they are merged by
    their scores, and no piece of the target alone is among the merges.

    Raises:
        ExportError: A piece of the source is not in vocab.json, so that it is unknown although
            other pieces are made of it.
    """
    from tokenizers import models

    ids = {piece: n for n, (piece, _) in enumerate(vocabulary)}
    if lost := sorted(piece for piece in scores if piece not in ids):
        raise ExportError(
            f"vocab.json lacks {len(lost)} of the {len(scores)} pieces of Marian's source.spm, "
            f"which is of the kind BPE; the first is {lost[0]!r}",
            "export a Marian checkpoint whose source.spm is of the kind unigram, or whose "
            "vocab.json has all of its pieces",
        )
    return models.BPE(
        ids, sentencepiece_tokenizer.merges(scores), unk_token=slow.unk_token, fuse_unk=True
    )


def _scores(spm: Any) -> dict[str, float]:
    """Log probability of every piece that a text can be cut into."""
    return {
        spm.id_to_piece(n): spm.get_score(n)
        for n in range(spm.get_piece_size())
        if not (spm.is_control(n) or spm.is_unknown(n) or spm.is_unused(n))
    }


def _vocabulary(slow: Any, scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Pieces and log probabilities in the order of vocab.json's ids."""
    least = min(scores.values())
    plain = {
        *scores,
        slow.unk_token,
        slow.eos_token,
        slow.pad_token,
        *slow.supported_language_codes,
    }
    pieces = [slow.decoder.get(n) or f"{MARK}{n}" for n in range(max(slow.decoder) + 1)]
    return [
        (piece if piece in plain or len(piece) == 1 else MARK + piece, scores.get(piece, least))
        for piece in pieces
    ]
