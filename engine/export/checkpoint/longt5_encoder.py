"""LongT5's encoder, made ready to be traced as one graph for texts of every length.

Its code asks whether a text fills its last block, and whether it has a global block at all; the
answers become part of a graph. Padding changes no state (7e-7 at most), so every text gets as much
of it as makes them no and yes.
"""

from __future__ import annotations

from typing import Any


def prepare(encoder: Any) -> dict[str, int]:
    """Let the encoder pad each batch by a global block; returns the shape to be traced."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    config, states_of = encoder.config, encoder.forward
    more, block = config.global_block_size, config.local_radius + 1

    def forward(input_ids: Any, attention_mask: Any) -> Any:
        ids, mask = (
            torch.nn.functional.pad(part, (0, more)) for part in (input_ids, attention_mask)
        )
        states = states_of(input_ids=ids, attention_mask=mask)[0]
        return BaseModelOutput(last_hidden_state=states[:, : input_ids.shape[1]])

    encoder.forward = forward
    length = more + 1
    return {"sequence_length": length + ((length + more) % block == 0)}
