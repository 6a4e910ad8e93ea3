"""A PyTorch loop: transformers models over batches sorted by length, in fp32 or bf16.

bf16 is autocast, and for decoders, which read all weights at every step, the weights themselves.
"""

from collections.abc import Callable
from typing import Any

from _loop import HEADS, loop, skip

PACKAGES = ("torch", "transformers", "tokenizers")
ENV = "transformers"
TASKS = tuple(HEADS)
VARIANTS = {kind: [{"batch": n} for n in (16, 64)] for kind in ("fp32", "bf16")}
__all__ = ["ENV", "PACKAGES", "TASKS", "VARIANTS", "load", "settings", "skip"]


def settings(job: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    """A large model's weights are read once for all rows of a batch: only the larger one."""
    every = VARIANTS[variant]
    return every[-1:] if job.get("large") else every


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import torch
    import transformers

    torch.set_num_threads(job["threads"])
    head = HEADS[job["task"]]
    kind = getattr(transformers, f"AutoModel{'For' if head else ''}{head}")
    bf16 = job["variant"] == "bf16"
    whole = bf16 and job["task"] == "text-generation"
    dtype = torch.bfloat16 if whole else torch.float32
    model = kind.from_pretrained(job["checkpoint"], dtype=dtype).eval()
    autocast = bf16 and not whole
    call: Callable[[dict[str, Any]], list[Any]] = loop(model, job, setting["batch"], bf16=autocast)
    return call
