"""The largest of many scores in blocks: the same entries as of one array."""

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import strategies as st

from nlsr_jax.nlsr.masks import host_top_mask
from nlsr_jax.nlsr.selection import find_cut, keep

SCORES = arrays.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**-149]), st.floats(0, 2.0**127, width=32)),
)


@hypothesis.given(SCORES, st.integers(1, 7), st.data())
def test_blocks_give_the_mask_of_the_whole(scores, width, data):
    count = data.draw(st.integers(0, scores.size))
    blocks = [scores[i : i + width] for i in range(0, scores.size, width)]
    cut = find_cut(lambda: iter(blocks), count)
    found, passed = [], 0
    for block in blocks:
        mask, passed = keep(block, cut, passed)
        found.append(mask)
    mask = np.concatenate(found)
    assert np.count_nonzero(mask) == count
    assert np.array_equal(mask, host_top_mask(np.abs(scores), count))
