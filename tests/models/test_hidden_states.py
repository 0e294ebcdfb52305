"""Hidden states against those of transformers."""

import jax
import numpy as np

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.models import load_model
from nlsr_jax.models.hidden_states import last_hidden_states


def test_they_are_those_of_transformers_at_the_last_token():
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, params = load_model(SHIPPED / "base")
    rng = np.random.default_rng(0)
    lengths = np.array([5, 12, 9])
    tokens = rng.integers(4, model.config.vocab_size, (3, 12))
    for row, length in zip(tokens, lengths, strict=True):
        row[length:] = 0
    bare, wrapped = (
        AutoModelForCausalLM.from_pretrained(SHIPPED / "base") for _ in range(2)
    )  # PEFT alters its own
    for adapter, theirs in (
        (None, bare),
        (load_adapter(SHIPPED / "dpo", model.config), PeftModel.from_pretrained(wrapped, SHIPPED / "dpo")),
    ):
        found = last_hidden_states(model, params, tokens.astype(np.int32), lengths, adapter=adapter)
        assert found.shape == (model.config.num_layers + 1, 3, model.config.hidden_size)
        with torch.no_grad():
            states = theirs(torch.tensor(tokens), output_hidden_states=True).hidden_states
        for row, length in enumerate(lengths):
            expected = np.stack([state[row, length - 1].numpy() for state in states])
            np.testing.assert_allclose(found[:, row], expected, rtol=1e-4, atol=1e-4)
    jax.clear_caches()
