"""Embeddings with fastembed, over an ONNX export that is on the disk already."""

import json
import os
import sys

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

model, tokenizer_folder, rows, out, variant = sys.argv[1:6]
with open(rows, encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
with open(os.path.join(tokenizer_folder, "config.json"), encoding="utf-8") as file:
    size = json.load(file)["hidden_size"]
TextEmbedding.add_custom_model(
    model="local/checkpoint",
    pooling=PoolingType.MEAN,
    normalization=True,
    dim=size,
    sources=ModelSource(hf="local/checkpoint"),
    model_file="model.onnx",
)
embedder = TextEmbedding("local/checkpoint", specific_model_path=model)
vectors = [vector.tolist() for vector in embedder.embed(texts, batch_size=32)]
with open(f"{out}.tmp", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"answer": vector}) + "\n" for vector in vectors)
os.replace(f"{out}.tmp", out)
