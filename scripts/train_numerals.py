"""Train the demonstration checkpoint: Spanish cardinal numerals into European Portuguese.

A T5 of t5-small's variant (ReLU feed-forward, tied and scaled output head, relative positions),
cut down to 1,148,928 parameters, and a unigram tokenizer of its own with T5's special tokens. Both
are trained here from nothing, from 0 to 999,999 in words; a tenth of the numbers, set apart by
``held_out``, is never drawn. The Spanish side comes in num2words' spelling ("veintiuno mil") and in
the standard one ("veintiún mil"), half and half.

With the defaults (2,000 steps, a quarter of an hour on two busy cores) greedy generation writes all
99,893 held-out numbers right to the letter, and in the standard spelling all 8,884 of them that it
changes; ``report`` asks a sample of them by band, and every number below 1,000. The same seed on
the same machine with the same number of threads gives the same files, byte for byte.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before tokenizers is imported: its threads would race with torch's for the same cores.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from num2words import num2words
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.demo.numerals import LIMIT, held_out, portuguese, spanish  # noqa: E402

PREFIX = "translate Spanish to Portuguese: "
MAX_LENGTH = 48
EXTRA_IDS = 100
PIECES = 120  # every word of the two languages' numerals and of the prefix, and their letters
SPECIAL = ["<pad>", "</s>", "<unk>"]


@dataclass(frozen=True)
class Band:
    """A range of numbers, drawn from with its own share of every batch."""

    name: str
    numbers: "np.ndarray[Any, np.dtype[np.int64]]"
    share: float


def bands() -> list[Band]:
    """The numbers by size, and by the endings that decide where Portuguese puts its "e".

    Drawn evenly from the whole range, nine numbers in ten would have six digits and only one in
    a hundred would end in a bare hundred.
    """
    return [
        Band("0 - 999", np.arange(1_000), 0.15),
        Band("1,000 - 9,999", np.arange(1_000, 10_000), 0.15),
        Band("10,000 - 99,999", np.arange(10_000, 100_000), 0.15),
        Band("100,000 - 999,999", np.arange(100_000, LIMIT), 0.35),
        Band("round thousands", np.arange(1_000, LIMIT, 1_000), 0.08),
        Band("round hundreds", np.arange(1_000, LIMIT, 100), 0.12),
    ]


def check_wording(seed: int) -> None:
    """Hold the composed numerals against num2words: 0 to 999 and a sample of the rest."""
    sample = np.random.default_rng(seed).integers(1_000, LIMIT, 5_000)
    for n in [*range(1_000), *map(int, sample)]:
        if spanish(n) != num2words(n, lang="es") or portuguese(n) != num2words(n, lang="pt"):
            raise SystemExit(f"the numerals of {n} are not num2words' own")


def tokenizer_corpus(numbers: Iterable[int]) -> list[str]:
    """The sentences that the tokenizer is trained on."""
    lines = []
    for n in numbers:
        lines += [PREFIX + spanish(n), PREFIX + spanish(n, apocope=True), portuguese(n)]
    # The trainer seeds its pieces with strings that two different words share, so a word that
    # is nobody's beginning would never become one piece. A comma behind it makes the second.
    words = sorted({word for line in lines for word in line.split()})
    return lines + [f"{word}," for word in words]


def train_pieces(corpus: Sequence[str]) -> list[tuple[str, float]]:
    """Return the pieces of a unigram model of ``corpus`` with their log probabilities."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=PIECES, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["vocab"][len(SPECIAL) :]
    # Two runs of the trainer differ in the last digits of its sums and in the order of the letters
    # that only complete the alphabet, which it places a hair above the lowest score.
    floor = min(score for _, score in learned) + 0.01
    scores = {piece: round(max(score, floor), 4) for piece, score in learned}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def new_tokenizer(pieces: Sequence[tuple[str, float]]) -> T5TokenizerFast:
    """Lay the vocabulary out as T5 does, the sentinels at its top, the last of them first."""
    special = [(token, 0.0) for token in SPECIAL]
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(EXTRA_IDS))]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces, *sentinels], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=EXTRA_IDS, model_max_length=512)


def new_model(vocabulary: int) -> T5ForConditionalGeneration:
    """A T5 of about a million parameters, with fresh weights.

    Its embedding is rounded up to a multiple of 64, as T5's own is (32,128 for 32,100 tokens).
    """
    config = T5Config(
        vocab_size=-(-vocabulary // 64) * 64,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        layer_norm_epsilon=1e-6,
        tie_word_embeddings=True,
        decoder_start_token_id=0,
        task_specific_params={"translation_es_to_pt": {"prefix": PREFIX, "max_length": MAX_LENGTH}},
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        max_new_tokens=MAX_LENGTH,
        num_beams=1,
        do_sample=False,
    )
    return model


class Sampler:
    """Draws training batches: numbers that are not held out, in either Spanish spelling."""

    def __init__(self, tokenizer: T5TokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._draw = np.random.default_rng(seed)
        kept = np.array([not held_out(n) for n in range(LIMIT)])
        self._bands = [(b.numbers[kept[b.numbers]], b.share) for b in bands()]

    def numbers(self, size: int) -> list[int]:
        """Return ``size`` numbers, each band with its share."""
        shares = [share for _, share in self._bands]
        counts = self._draw.multinomial(size, shares)
        drawn = [
            self._draw.choice(pool, count)
            for (pool, _), count in zip(self._bands, counts, strict=True)
        ]
        return [int(n) for n in np.concatenate(drawn)]

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Return a padded batch with labels, the padding of the labels masked."""
        numbers = self.numbers(size)
        short = self._draw.random(size) < 0.5
        sources = [
            PREFIX + spanish(n, apocope=bool(s)) for n, s in zip(numbers, short, strict=True)
        ]
        batch = self._tokenizer(sources, padding=True, return_tensors="pt")
        labels = self._tokenizer(
            [portuguese(n) for n in numbers], padding=True, return_tensors="pt"
        ).input_ids
        return {**batch, "labels": labels.masked_fill(labels == 0, -100)}


def train(
    model: T5ForConditionalGeneration, sampler: Sampler, steps: int, size: int, peak: float
) -> None:
    """Minimise cross-entropy with AdamW: a short warm-up, then a cosine to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
    warm_up = min(100, steps // 10)

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started = time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        loss = model(**sampler.batch(size)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - started
            print(f"step {step:>6,}  loss {loss.item():.6f}  {seconds:,.0f} s", flush=True)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
def translate(model: Any, tokenizer: Any, sources: Sequence[str]) -> list[str]:
    """Greedy generation, 256 sentences at a time."""
    texts: list[str] = []
    for start in range(0, len(sources), 256):
        batch = tokenizer(list(sources[start : start + 256]), padding=True, return_tensors="pt")
        texts += tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True)
    return texts


def exact_match(model: Any, tokenizer: Any, numbers: Sequence[int], apocope: bool) -> float:
    """The share of ``numbers`` whose numeral comes out letter for letter."""
    sources = [PREFIX + spanish(n, apocope=apocope) for n in numbers]
    texts = translate(model, tokenizer, sources)
    right = [text == portuguese(n) for text, n in zip(texts, numbers, strict=True)]
    return float(np.mean(right))


def report(folder: Path, seed: int, most: int = 2_000) -> None:
    """Print the exact match of the checkpoint as it lies on disk, by band, held-out numbers only.

    The numbers below 1,000 are too few to leave any out, so they are all asked as well.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    draw = np.random.default_rng(seed + 1)
    rows = [("0 - 999, seen or not", list(range(1_000)))]
    for band in bands():
        numbers = [int(n) for n in band.numbers if held_out(int(n))]
        if len(numbers) > most:
            numbers = [int(n) for n in draw.choice(numbers, most, replace=False)]
        rows.append((f"{band.name}, held out", numbers))
    print(f"{'exact match':<30}{'numbers':>9}{'num2words':>12}{'apocope':>10}")
    for name, numbers in rows:
        plain, short = (exact_match(model, tokenizer, numbers, a) for a in (False, True))
        print(f"{name:<30}{len(numbers):>9,}{plain:>12.2%}{short:>10.2%}", flush=True)


def save(model: T5ForConditionalGeneration, tokenizer: T5TokenizerFast, folder: Path) -> None:
    """Write the checkpoint folder."""
    model.save_pretrained(folder)
    # The padding of the training batches would be written into tokenizer.json; T5's has none.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    # safetensors makes the file its owner's alone, and a wheel would carry that on.
    (folder / "model.safetensors").chmod(0o644)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "engine/demo/checkpoint")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Train, write the checkpoint folder, read it back and report."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    check_wording(options.seed)
    started = time.perf_counter()
    draw = np.random.default_rng(options.seed)
    drawn = [*range(1_000), *map(int, draw.integers(1_000, LIMIT, 20_000))]
    sample = [n for n in drawn if not held_out(n)]
    tokenizer = new_tokenizer(train_pieces(tokenizer_corpus(sample)))
    model = new_model(len(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, Sampler(tokenizer, options.seed), options.steps, options.batch, options.rate)
    save(model, tokenizer, options.output)
    print(f"trained in {time.perf_counter() - started:,.0f} s, written to {options.output}")
    report(options.output, options.seed)


if __name__ == "__main__":
    main()
