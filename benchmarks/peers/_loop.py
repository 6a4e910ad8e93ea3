"""The loop a careful user writes around a transformers-like model; several adapters share it.

Every text is tokenized once, batches are sorted by length, longest first, and padded to their own
longest row.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

HEADS = {
    "feature-extraction": "",
    "text-classification": "SequenceClassification",
    "zero-shot-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "text-generation": "CausalLM",
    "translation": "Seq2SeqLM",
    "summarization": "Seq2SeqLM",
}


def skip(job: dict[str, Any]) -> str:
    """bf16 is skipped where the CPU would emulate it."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    lacks = job["variant"] == "bf16" and not {"avx512_bf16", "amx_bf16"} & set(flags)
    return "this CPU has no bf16 arithmetic" if lacks else ""


def loop(
    model: Any, job: dict[str, Any], size: int, *, bf16: bool = False
) -> Callable[[dict[str, Any]], list[Any]]:
    """The timed call: rows to answers, with `model(**batch)` or `model.generate(**batch)`."""
    import torch
    import transformers

    task, options = job["task"], dict(job["options"])
    labels = options.pop("candidate_labels", [])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    if task == "text-generation":
        tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    options = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id, **options}
    answer = generate if HEADS[task].endswith("LM") else classify

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        pairs = [(text, f"This example is {name}.") for text in texts for name in labels]
        sequences = pairs or texts
        encoded = tokenizer(sequences, truncation="only_first", max_length=job["max_length"])
        order = sorted(range(len(sequences)), key=lambda n: -len(encoded["input_ids"][n]))
        results: list[Any] = [None] * len(sequences)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, bf16):
            for batch in (order[n : n + size] for n in range(0, len(order), size)):
                inputs = {k: [encoded[k][n] for n in batch] for k in tokenizer.model_input_names}
                padded = tokenizer.pad(inputs, return_tensors="pt")
                offsets = [encoded[n].offsets for n in batch]
                answers = answer(model, tokenizer, task, padded, options, offsets)
                for n, one in zip(batch, answers, strict=True):
                    results[n] = one
        best = torch.tensor(results).view(len(texts), -1).argmax(1) if labels else []
        return [labels[n] for n in best] or results

    return call


def generate(
    model: Any, tokenizer: Any, task: str, inputs: Any, options: dict[str, Any], offsets: Any
) -> Any:
    start = inputs["input_ids"].shape[1] if task == "text-generation" else 0
    tokens = model.generate(**inputs, **options)[:, start:]
    return tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=start > 0
    )


def classify(
    model: Any, tokenizer: Any, task: str, inputs: Any, options: dict[str, Any], offsets: Any
) -> Any:
    import torch

    out = model(**inputs)[0].float()
    if task == "feature-extraction":
        summed = (out * inputs["attention_mask"][..., None]).sum(1)
        return torch.nn.functional.normalize(summed).tolist()
    names = model.config.id2label
    if task == "zero-shot-classification":
        return out[:, [n for n in names if names[n].startswith("entail")]].tolist()
    best = out.argmax(-1).tolist()
    if task == "text-classification":
        return [names[n] for n in best]
    return [entities([names[n] for n in row], o) for row, o in zip(best, offsets, strict=True)]


def entities(labels: list[str], offsets: list[tuple[int, int]]) -> str:
    """The pipeline's aggregation "simple", without the special tokens at both ends."""
    spans: list[list[Any]] = []
    for label, (start, end) in zip(labels[1:], offsets[1:-1], strict=False):
        begins, _, name = label.partition("-")
        if spans and spans[-1][2] == name and begins != "B":
            spans[-1][1] = end
        else:
            spans.append([start, end, name])
    return " ".join(f"{start}-{end}-{name}" for start, end, name in spans if name)
