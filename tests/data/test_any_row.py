"""Rows of any content: read whole, or refused in one line."""

import json
import pathlib
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from tests.data.test_answered import GOOD, PAIRS, USER, read

NAMES = st.sampled_from(
    "prompt response chosen rejected messages conversations input instruction output system history label is_safe "
    "context completion tools response_0 response_1 is_response_0_safe is_response_1_safe".split()
)
TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "from", "content", "value", "weight"]),
        st.sampled_from(["user", "assistant", "system", "human", "gpt", "q", "", None, 0, []]),
        max_size=3,
    ),
    max_size=3,
)
VALUES = st.none() | st.booleans() | st.integers(0, 2) | st.text(max_size=4) | TURNS | TURNS.map(json.dumps)
VALUES |= st.sampled_from([*PAIRS, [USER, GOOD], [USER], [GOOD], USER, {"messages": [USER, GOOD]}, [["q", "a"]]])


@settings(deadline=None)
@given(row=st.dictionaries(NAMES, VALUES, max_size=5), preference=st.booleans())
def test_any_row_is_read_or_refused_in_a_line(row, preference):
    with tempfile.TemporaryDirectory() as folder:
        try:
            ((prompt, response, rejected),) = read(pathlib.Path(folder), row, preference=preference)
        except InputError as error:
            assert "\n" not in str(error)
            return
    assert prompt.strip()
    assert response.strip()
    assert bool(rejected) == preference
