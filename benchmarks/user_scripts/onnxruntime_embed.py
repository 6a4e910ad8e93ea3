"""Embeddings with ONNX Runtime and the tokenizers library alone: the quickest start there is."""

import json
import os
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

model, tokenizer_folder, rows, out, variant = sys.argv[1:6]
with open(rows, encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
session = onnxruntime.InferenceSession(os.path.join(model, "model.onnx"))
names = [each.name for each in session.get_inputs()]
tokenizer = Tokenizer.from_file(os.path.join(tokenizer_folder, "tokenizer.json"))
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
vectors: dict[int, list[float]] = {}
for start in range(0, len(order), 16):
    batch = order[start : start + 16]
    encodings = tokenizer.encode_batch([texts[n] for n in batch])
    feeds = {
        "input_ids": np.array([encoding.ids for encoding in encodings]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
    }
    states = session.run(None, {name: feeds[name] for name in names})[0]
    pooled = (states * feeds["attention_mask"][..., None]).sum(1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    vectors.update(zip(batch, pooled.tolist(), strict=True))
with open(f"{out}.tmp", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"answer": vectors[n]}) + "\n" for n in range(len(texts)))
os.replace(f"{out}.tmp", out)
