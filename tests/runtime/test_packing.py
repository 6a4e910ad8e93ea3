"""Packing inputs: where the real tokens of padded rows are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runtime.packing import packing_inputs


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 3))
def test_gathering_the_real_tokens_is_undone_by_the_inverse(lengths: list[int], more: int) -> None:
    mask = (np.arange(max(lengths) + more) < np.array(lengths)[:, None]).astype(np.int64)
    inputs = packing_inputs(mask)
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}
    states = np.random.default_rng(0).normal(size=(*mask.shape, 3))
    flat = states.reshape(-1, 3)[inputs["token_indices"]]
    np.testing.assert_array_equal(flat, states[mask == 1])
    np.testing.assert_array_equal(flat[inputs["inverse_indices"]][mask == 1], flat)
    assert inputs["cu_seqlens"].tolist() == [0, *np.cumsum(lengths)]
    # As ContribOperators.md has it: real tokens first, in order, then where the padding was.
    order = np.concatenate([np.flatnonzero(mask), np.flatnonzero(mask == 0)])
    np.testing.assert_array_equal(inputs["token_offset"].ravel(), order)
