"""Tokenizers without a fast form in transformers: converted token for token, or refused by name."""

from __future__ import annotations

import gzip
import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of
from support.checkpoints import sentencepieces

import engine
from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("sentencepiece")

from engine.export import export
from engine.export.checkpoint import hub, slow_tokenizers, tokenizers
from engine.export.checkpoint.tokenizer_proof import SCRIPTS

TEXTS = [
    *sentencepieces.lines(1000, seed=1),
    *(unicodedata.normalize("NFD", line) for line in sentencepieces.lines(200, seed=2)),
    *SCRIPTS,
    *checkpoints.SENTENCES,
    "a" * 500,
    "龘", "龘龘 龘", "un known", "\ufdd0 \ufdd2\ufdd2", "\x00\x01 a\x7f",
    "</s> x <pad>y <unk> __de__ z __xx__", "\u2581a \u2581 b\u2581",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("added", [True, False])
def test_m2m100_s_tokenizer_token_for_token(tmp_path: Path, kind: str, added: bool) -> None:
    from transformers import M2M100Tokenizer

    model = sentencepieces.m2m100(tmp_path / "model", kind)
    if not added:
        (model / "special_tokens_map.json").unlink()
    slow = M2M100Tokenizer.from_pretrained(model)
    fast = tokenizers.load(hub.resolve(str(model), None, str))
    for language in ("en", "zh"):
        slow.src_lang = fast.src_lang = language
        different = [t for t in TEXTS if slow(t).input_ids != fast(t).input_ids]
        assert different == []
    for ids in _random_ids(len(slow) + 8, 1000):
        assert slow.decode(ids, skip_special_tokens=True) == fast.decode(
            ids, skip_special_tokens=True
        )


def _random_ids(size: int, rows: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(size) for _ in range(draw.randint(1, 20))] for _ in range(rows)]


def test_m2m100_translates_as_the_pipeline(shared: Path) -> None:
    """Rows of real text and of many scripts, batched and alone, in two pairs of languages."""
    from transformers import pipeline

    model = checkpoint_of(sentencepieces.m2m100)
    bundle = engine.Bundle.load(bundle_of(model, "translation_en_to_de"))
    file = shared / "data/multi30k/val.en.gz"
    texts = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()[:150]
    texts += sentencepieces.lines(60, seed=3)
    pipe = pipeline("translation", model=str(model), dtype="float32", device="cpu", batch_size=30)
    for source, target in (("en", "de"), ("ja", "fr")):
        settings = {"src_lang": source, "tgt_lang": target, "max_new_tokens": 12}
        theirs = [row["translation_text"] for row in pipe(texts, **settings)]
        mine = bundle(texts, **settings)["translation_text"].to_pylist()
        assert mine == theirs
    alone = [bundle([text], **settings)["translation_text"][0].as_py() for text in texts[::7]]
    assert alone == mine[::7]


def test_byt5_generates_as_the_pipeline() -> None:
    from transformers import pipeline

    model = checkpoint_of(sentencepieces.byt5)
    bundle = engine.Bundle.load(bundle_of(model, "text2text-generation"))
    pipe = pipeline(
        "text2text-generation", model=str(model), dtype="float32", device="cpu", batch_size=20
    )
    texts = [line[:80] for line in TEXTS[::6] if line.strip()]
    mine = bundle(texts, max_new_tokens=12)["generated_text"].to_pylist()
    assert mine == [row["generated_text"] for row in pipe(texts, max_new_tokens=12)]


def test_a_conversion_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import M2M100Tokenizer

    model = checkpoint_of(sentencepieces.m2m100)
    slow = M2M100Tokenizer.from_pretrained(model)
    tokenize = type(slow)._tokenize
    monkeypatch.setattr(
        type(slow), "_tokenize", lambda self, text: tokenize(self, text.replace("龍", "x"))
    )
    with pytest.raises(ExportError, match=r"M2M100Tokenizer .*other ids for 1 of \d+ lines"):
        slow_tokenizers.fast(slow, 0)
    monkeypatch.undo()
    monkeypatch.setattr(type(slow), "convert_tokens_to_string", lambda self, tokens: "!")
    with pytest.raises(ExportError, match="another text for 300 of 300 rows of ids"):
        slow_tokenizers.fast(slow, 0)


def test_pieces_without_an_id_are_refused(tmp_path: Path) -> None:
    model = sentencepieces.m2m100(tmp_path / "model")
    vocabulary = json.loads((model / "vocab.json").read_text())
    lost = next(piece for piece in vocabulary if re.fullmatch("\u2581[a-z]+", piece))
    checkpoints.write_json(
        model / "vocab.json", {piece: n for piece, n in vocabulary.items() if piece != lost}
    )
    with pytest.raises(ExportError, match=f"1 of the .* no id of their own, the first is '{lost}'"):
        export(str(model), tmp_path / "out", task="translation_en_to_de")


def _esm(folder: Path) -> Path:
    """An ESM encoder of proteins, whose tokenizer has rules of its own."""
    from transformers import EsmConfig, EsmModel

    pieces = ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "<mask>"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    checkpoints.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "EsmTokenizer"})
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 16}
    return checkpoints.save_lively(EsmModel, EsmConfig(**shape, pad_token_id=1), folder)


def test_a_tokenizer_with_rules_in_python_is_refused_by_name(tmp_path: Path) -> None:
    """And the hint is true: a tokenizer.json that tokenizer_config.json names is taken."""
    model = _esm(tmp_path / "model")
    with pytest.raises(ExportError, match=r"EsmTokenizer .* its rules are in Python") as caught:
        tokenizers.load(hub.resolve(str(model), None, str))
    assert '"PreTrainedTokenizerFast" as tokenizer_class' in caught.value.hint
    _follow_the_hint(model)
    assert tokenizers.load(hub.resolve(str(model), None, str)).is_fast


@pytest.mark.parametrize(
    "name",
    [
        "XLMTokenizer",
        "FlaubertTokenizer",
        "BioGptTokenizer",
        "BertweetTokenizer",
        "PhobertTokenizer",
        "CanineTokenizer",
    ],
)
def test_reasons_name_the_class(name: str) -> None:
    import transformers

    slow: Any = object.__new__(getattr(transformers, name))
    with pytest.raises(ExportError, match=name) as caught:
        slow_tokenizers.fast(slow, 0)
    assert "PreTrainedTokenizerFast" in caught.value.hint


def _follow_the_hint(model: Path) -> None:
    checkpoints.unigram().backend_tokenizer.save(str(model / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    checkpoints.write_json(model / "tokenizer_config.json", {**about, "unk_token": "<unk>"})
