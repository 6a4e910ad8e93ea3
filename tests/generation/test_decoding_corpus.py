"""500 real sentences a family: generate()'s tokens, whatever slots, workers and refill do.

It takes an hour, so it only runs when asked for:
``ENGINE_TEST_REAL_SHAPE=1 pytest tests/test_decoding_corpus.py``. flan-t5-small and the embedded
model are trained; the others are narrow, random and have the vocabulary of a real tokenizer. Some
of the tokens that such a model likes are made end tokens, so that its rows end at different steps.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import export_once

import engine
from engine.demo import BUNDLE
from engine.demo.numerals import LIMIT, spanish
from engine.generation import host_cache

pytest.importorskip("optimum.exporters.onnx")
pytestmark = pytest.mark.skipif(
    os.environ.get("ENGINE_TEST_REAL_SHAPE") != "1", reason="ENGINE_TEST_REAL_SHAPE is not 1"
)

ROWS, MOST, ENDS = 500, 24, 4
T5 = {
    "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 32128,
    "decoder_start_token_id": 0,
}  # fmt: skip
PAIR = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_position_embeddings": 512, "init_std": 0.2,
}  # fmt: skip
PIECES = {**PAIR, "vocab_size": 32128, "pad_token_id": 0, "eos_token_id": 1}
PIECES["decoder_start_token_id"] = 0
BYTES = {**PAIR, "vocab_size": 50265, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BYTES["decoder_start_token_id"] = 2
# How far weights are from where they begin; T5 would else say one token again and again.
NOISE = {"t5": 0.2, "mt5": 0.2}
CAUSAL = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256}
# class, tokenizer, task, configuration
FAMILIES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "t5-small", "text2text-generation", T5),
    "mt5": ("MT5ForConditionalGeneration", "t5-small", "text2text-generation", T5),
    "bart": ("BartForConditionalGeneration", "roberta-base", "summarization", BYTES),
    "mbart": ("MBartForConditionalGeneration", "roberta-base", "text2text-generation", BYTES),
    "pegasus": ("PegasusForConditionalGeneration", "t5-small", "summarization", PIECES),
    "marian": ("MarianMTModel", "t5-small", "text2text-generation", PIECES),
    "gpt2": (
        "GPT2LMHeadModel", "gpt2", "text-generation",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, **CAUSAL},
    ),
    "opt": (
        "OPTForCausalLM", "gpt2", "text-generation",
        {"hidden_size": 64, "word_embed_proj_dim": 64, "num_hidden_layers": 2, "ffn_dim": 128,
         "num_attention_heads": 4, "init_std": 0.2, "vocab_size": 50272, **CAUSAL},
    ),
}  # fmt: skip


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", ["flan-t5-small", "numerals", *FAMILIES])
def test_tokens_are_those_of_generate(
    request: pytest.FixtureRequest, shared: Path, tmp_path: Path, family: str, beams: int
) -> None:
    texts, task = sentences(shared), "text2text-generation"
    if family == "flan-t5-small":
        folder = request.getfixturevalue("trained") / family
    elif family == "numerals":
        folder, drawn = BUNDLE.parent / "checkpoint", random.Random(0).sample(range(LIMIT), ROWS)
        texts = [f"translate Spanish to Portuguese: {spanish(n)}" for n in drawn]
    else:
        folder, task = checkpoint(tmp_path / "checkpoint", shared, family), FAMILIES[family][2]
    export_once(folder, tmp_path / "bundle", task=task)
    assert (tmp_path / "bundle/step.onnx").is_file()
    answers = every_way(tmp_path, texts, beams)
    wanted, tied = reference(folder, task, texts, beams)
    differing = [n for n in range(ROWS) if answers[n] != wanted[n]]
    lengths = Counter(tokens for _, tokens in wanted)
    assert len(lengths) > 5
    assert len(differing) <= ROWS // 200
    assert all(tied(n, answers[n][0]) for n in differing)


def sentences(shared: Path) -> list[str]:
    with gzip.open(shared / "data/multi30k/val.en.gz", "rt", encoding="utf-8") as stream:
        return [line.strip() for line in stream][:ROWS]


def checkpoint(folder: Path, shared: Path, family: str) -> Path:
    import torch
    import transformers

    kind, tokenizer, _, settings = FAMILIES[family]
    readers = {"t5-small": "T5", "roberta-base": "Roberta", "gpt2": "GPT2"}
    reader = getattr(transformers, f"{readers[tokenizer]}TokenizerFast")
    source = shared / "models/tokenizers" / tokenizer
    read = reader.from_pretrained(source, model_max_length=512)
    read.save_pretrained(folder)
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    model = made(made.config_class(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = 0.2 if weight.ndim == 1 else NOISE.get(family, 0.05)
            weight.add_(torch.randn_like(weight), alpha=noise)
    liked = Counter[int]()
    for text in sentences(shared)[:40]:
        inputs = read(text, return_tensors="pt", return_token_type_ids=False)
        skip = inputs["input_ids"].shape[1] if family in ("gpt2", "opt") else 1
        found = model.generate(**inputs, do_sample=False, max_new_tokens=MOST, min_new_tokens=MOST)
        liked.update(set(found[0, skip:].tolist()))
    ends = [token for token, _ in liked.most_common(8)[-ENDS:]]
    model.generation_config.eos_token_id = [model.config.eos_token_id, *ends]
    model.save_pretrained(folder)
    return folder


def every_way(tmp_path: Path, texts: list[str], beams: int) -> list[tuple[str, int]]:
    """The answers, after they have been the same for all numbers of slots and workers."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    found = {}
    for count, workers, refill in (
        (64, 1, True), (64, 2, True), (7, 1, True), (7, 2, False), (1, 2, True),
    ):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host_cache, "SLOTS", range(count * beams, count * beams + 1))
            patch.setattr(host_cache.HostCache, "refills", refill)
            out = tmp_path / f"out-{count}-{workers}-{refill}"
            engine.run(
                tmp_path / "bundle", rows, out, text=["text"], workers=workers, threads=1,
                num_beams=beams, max_new_tokens=MOST, do_sample=False, format="parquet",
                **OWN.get(json.loads((tmp_path / "bundle/bundle.json").read_text())["task"], {}),
            )  # fmt: skip
        import pyarrow.parquet as pq

        table = pq.read_table(sorted(out.glob("part-*.parquet"))[0])
        answers = zip(table.column(0).to_pylist(), table["output_tokens"].to_pylist(), strict=True)
        found[count, workers, refill] = list(answers)
    first, *others = found.values()
    for own in others:
        assert own == first
    return first


OWN: dict[str, dict[str, Any]] = {"text-generation": {"return_full_text": False}}


def reference(folder: Path, task: str, texts: list[str], beams: int) -> Any:
    """Text and number of tokens of every row by generate(), each in a batch of its own; and whether
    another text of a row would have done: float32 rounds logits of 30 to a few millionths.

    Of beams its score must be the best one's; a greedy row must have had a step whose two best
    logits are equal but for rounding.
    """
    import torch
    import transformers

    causal = task == "text-generation"
    kind = "AutoModelForCausalLM" if causal else "AutoModelForSeq2SeqLM"
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kept: dict[tuple[int, str], float] = {}
    closest = []
    wanted = []
    for n, text in enumerate(texts):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        skip = inputs["input_ids"].shape[1] if causal else 1
        with torch.inference_mode():
            found = model.generate(
                **inputs, num_beams=beams, num_return_sequences=beams, do_sample=False,
                max_new_tokens=MOST, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        ends = np.atleast_1d(model.generation_config.eos_token_id).tolist()
        for k, ids in enumerate(found.sequences[:, skip:].tolist()):
            length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
            said = tokenizer.decode(
                ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=causal
            )
            if beams > 1:
                kept.setdefault((n, said), float(found.sequences_scores[k]))
            if not k:
                wanted.append((said, length))
        best = [step.topk(2).values[0] for step in found.scores]
        closest.append(min(float((one - two) / abs(one)) for one, two in best))

    def tied(n: int, text: str) -> bool:
        if beams == 1:
            return closest[n] < 3e-6
        return abs(kept.get((n, text), np.inf) - kept[n, wanted[n][0]]) < 1e-4

    return wanted, tied
