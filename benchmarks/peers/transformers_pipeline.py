"""transformers' pipelines as their documentation shows them: fp32, batches of 32 in file order."""

from collections.abc import Callable
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers")
ENV = "transformers"
# What a pipeline is called with, besides the job's options.
TASKS: dict[str, dict[str, Any]] = {
    "feature-extraction": {"return_tensors": True, "tokenize_kwargs": {"truncation": True}},
    "text-classification": {"truncation": True},
    "token-classification": {"aggregation_strategy": "simple"},
    "zero-shot-classification": {},
    "translation": {"truncation": True, "do_sample": False},
    "summarization": {"truncation": True, "do_sample": False},
    "text-generation": {"truncation": True, "do_sample": False, "return_full_text": False},
}
VARIANTS = {"fp32": [{"batch": 32}]}


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import torch
    import transformers

    torch.set_num_threads(job["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    tokenizer.model_max_length = job["max_length"]
    if job["task"] == "text-generation":
        tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    pipe = transformers.pipeline(
        job["task"], job["checkpoint"], tokenizer=tokenizer, dtype=torch.float32, device="cpu"
    )
    given = {**TASKS[job["task"]], **job["options"], "batch_size": setting["batch"]}

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        found = pipe(texts, **given)
        if job["task"] != "feature-extraction":
            return [answer(one) for one in found]
        # The pipeline gives the states of the padding, too.
        lengths = map(len, tokenizer(texts, truncation=True)["input_ids"])
        pooled = [states[0, :n].mean(0) for states, n in zip(found, lengths, strict=True)]
        return list(torch.nn.functional.normalize(torch.stack(pooled)).tolist())

    return call


def answer(found: Any) -> str:
    """One row's label, best label, entities or text."""
    if isinstance(found, dict):
        one = found.get("label") or found.get("labels", [""])[0]
        return str(one or next(iter(found.values())))
    if found and "entity_group" not in found[0]:
        return str(next(iter(found[0].values())))
    return " ".join(f"{one['start']}-{one['end']}-{one['entity_group']}" for one in found)
