"""transformers' pipelines as their documentation shows them: fp32, batches of 32 in file order."""

from collections.abc import Callable
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers")
ENV = "transformers"
# What each pipeline is called with besides the job's options.
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
    arguments = {**TASKS[job["task"]], **job["options"], "batch_size": setting["batch"]}

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        results = pipe(texts, **arguments)
        if job["task"] != "feature-extraction":
            return [answer(result) for result in results]
        # The pipeline also returns the states of padding.
        lengths = map(len, tokenizer(texts, truncation=True)["input_ids"])
        pooled = [states[0, :n].mean(0) for states, n in zip(results, lengths, strict=True)]
        return list(torch.nn.functional.normalize(torch.stack(pooled)).tolist())

    return call


def answer(result: Any) -> str:
    """One row's label, best label, entities or text."""
    if isinstance(result, dict):
        label = result.get("label") or result.get("labels", [""])[0]
        return str(label or next(iter(result.values())))
    if result and "entity_group" not in result[0]:
        return str(next(iter(result[0].values())))
    return " ".join(f"{e['start']}-{e['end']}-{e['entity_group']}" for e in result)
