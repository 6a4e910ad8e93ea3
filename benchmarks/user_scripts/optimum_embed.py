"""Embeddings as optimum's documentation shows them: its model class and transformers' tokenizer."""

import json
import os
import sys

import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer

model_folder, tokenizer_folder, rows, out, variant = sys.argv[1:6]
with open(rows, encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
model = ORTModelForFeatureExtraction.from_pretrained(model_folder)
tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
vectors: list[list[float]] = []
for start in range(0, len(texts), 16):
    batch = tokenizer(
        texts[start : start + 16],
        padding=True,
        truncation=True,
        max_length=256,
        return_tensors="pt",
    )
    states = model(**batch).last_hidden_state
    summed = (states * batch["attention_mask"][..., None]).sum(1)
    vectors += torch.nn.functional.normalize(summed).tolist()
with open(f"{out}.tmp", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"answer": vector}) + "\n" for vector in vectors)
os.replace(f"{out}.tmp", out)
