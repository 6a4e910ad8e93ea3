"""A PyTorch loop: transformers models over batches sorted by length, in fp32 or autocast bf16."""

from collections.abc import Callable
from typing import Any

from _loop import HEADS, loop, skip

PACKAGES = ("torch", "transformers", "tokenizers")
ENV = "transformers"
TASKS = tuple(HEADS)
VARIANTS = {kind: [{"batch": n} for n in (16, 64)] for kind in ("fp32", "bf16")}
__all__ = ["ENV", "PACKAGES", "TASKS", "VARIANTS", "load", "skip"]


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import torch
    import transformers

    torch.set_num_threads(job["threads"])
    head = HEADS[job["task"]]
    kind = getattr(transformers, f"AutoModel{'For' if head else ''}{head}")
    model = kind.from_pretrained(job["checkpoint"], dtype=torch.float32).eval()
    bf16 = job["variant"] == "bf16"
    call: Callable[[dict[str, Any]], list[Any]] = loop(model, job, setting["batch"], bf16=bf16)
    return call
