"""llama.cpp by its Python binding: 8-bit weights, several rows at a time in one context.

The binding's own class answers one row after the other; here rows are prompted and stepped
together, as llama.cpp's own batched example does it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from _conversions import cached
from _gguf import convert
from _llama_context import Context

PACKAGES = ("llama-cpp-python", "tokenizers")
ENV = "llama-cpp"
TASKS = ("text-generation",)
VARIANTS = {"q8_0": [{"rows": 32}]}


def skip(job: dict[str, Any]) -> str:
    config = Path(job["checkpoint"], "config.json").read_text(encoding="utf-8")
    sampled = job["options"].get("do_sample") or job["options"].get("num_beams", 1) > 1
    if '"qwen2"' not in config or sampled:
        return "converted here are Qwen2 checkpoints, and decoded greedily"
    return ""


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import tokenizers

    def write(folder: Path) -> None:
        convert(Path(job["checkpoint"]), folder / "model.gguf")

    file = cached(job, "q8_0", write) / "model.gguf"
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(job["checkpoint"], "tokenizer.json")))
    tokenizer.enable_truncation(job["max_length"])
    longest = job["max_length"] + job["options"]["max_new_tokens"]
    rows = setting["rows"]
    context = Context(file, job["threads"], rows, longest)

    def call(table: dict[str, Any]) -> list[Any]:
        prompts = [e.ids for e in tokenizer.encode_batch(table[job["columns"][0]])]
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        answers: list[Any] = [None] * len(prompts)
        for start in range(0, len(order), rows):
            some = order[start : start + rows]
            ids = context.generate([prompts[n] for n in some], job["options"]["max_new_tokens"])
            for n, text in zip(some, tokenizer.decode_batch(ids), strict=True):
                answers[n] = text
        return answers

    return call
