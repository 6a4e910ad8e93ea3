"""A Qwen2 checkpoint as llama.cpp's GGUF with 8-bit weights (Q8_0), without torch."""

import json
from pathlib import Path
from typing import Any

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(checkpoint: Path, file: Path) -> None:
    """Write the file; tokens go in and out as ids, so it has no vocabulary."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("none")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, array in tensors(checkpoint / "model.safetensors"):
        if array.ndim == 1:
            writer.add_tensor(named(name), array)
        else:
            writer.add_tensor(named(name), gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named(name: str) -> str:
    """A tensor's name in llama.cpp."""
    short = name.removeprefix("model.")
    if short.startswith("layers."):
        _, layer, rest = short.split(".", 2)
        part, _, kind = rest.rpartition(".")
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[short]


def tensors(file: Path) -> Any:
    """Names and float32 arrays of a safetensors file in bfloat16."""
    import numpy as np

    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    data = np.memmap(file, np.uint8, "r", 8 + size)
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            assert entry["dtype"] == "BF16"
            wide = data[start:stop].view(np.uint16).astype(np.uint32) << 16
            yield name, wide.view(np.float32).reshape(entry["shape"])
