"""Statistics and gradients captured in the model, against torch hooks and autograd in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import nlsr_jax
from nlsr_jax.adapter import MODULES, layer_scaling
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.low_rank import kept_rank
from tests.oracles import project
from tests.parity.peers import make_peer, save_peer, tokens

CONFIG = {"r": 6, "lora_alpha": 9, "target_modules": list(MODULES), "rank_pattern": {"up_proj": 4}}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture")
    save_peer("llama3", folder / "base")
    torch.manual_seed(3)
    peer = get_peft_model(make_peer("llama3"), LoraConfig(task_type="CAUSAL_LM", **CONFIG))
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.1)
    peer.save_pretrained(folder / "adapter")
    model, params = nlsr_jax.load_model(folder / "base")
    ids = tokens(0, 6, 20)
    mask = np.zeros(ids.shape, bool)
    for row in range(6):
        mask[row, 5 + row : 14 + row] = True
    return peer.double().eval(), model, params, nlsr_jax.load_adapter(folder / "adapter"), ids, mask


def explicit_inputs(peer, ids, mask):
    """``{(layer, module): [n, k]}`` float64 module inputs at the masked positions, by forward hooks."""
    found, hooks = {}, []
    for name, layer in peer.named_modules():
        if hasattr(layer, "lora_A"):
            parts = name.split(".")
            key = int(parts[parts.index("layers") + 1]), parts[-1]

            def keep(_, inputs, key=key):
                found[key] = inputs[0].detach().numpy()[mask]

            hooks.append(layer.register_forward_pre_hook(keep))
    with torch.no_grad():
        peer(torch.tensor(ids, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_and_projections_equal_explicit_activations(setting):
    peer, model, params, adapter, ids, mask = setting
    batches = [(ids[:3], mask[:3]), (ids[3:], mask[3:])]
    statistics = nlsr_jax.collect_statistics(model, params, adapter, batches)
    assert float(statistics.positions) == mask.sum()
    assert float(statistics.sequences) == 6
    projected = nlsr_jax.project_low_rank(adapter, statistics, sparsity=0.7)
    for (layer, module), x in explicit_inputs(peer, ids, mask).items():
        a, b = (np.float64(adapter.factors[module][f][layer]) for f in "ab")
        z = x @ a.T
        gram = z.T @ z
        assert np.linalg.norm(statistics.gram[module][layer] - gram) < 1e-5 * np.linalg.norm(gram)
        square = (x**2).sum(0)
        assert np.linalg.norm(statistics.input_square[module][layer] - square) < 1e-5 * np.linalg.norm(square)
        kept = kept_rank(a.shape[0], 0.7)
        for factor, weight, inputs in (("a", a, x), ("b", b, z)):
            expected = project(weight, inputs, kept)
            error = np.linalg.norm(projected.factors[module][factor][layer] - expected)
            # Float32 activations of a three-layer model, in directions as close as 1.05 : 1.
            assert error < 1e-4 * np.linalg.norm(expected)


def test_batches_of_any_size_and_padding_give_the_same_sums(setting):
    _, model, params, adapter, ids, mask = setting
    whole = nlsr_jax.collect_statistics(model, params, adapter, [(ids, mask)])
    halves = nlsr_jax.collect_statistics(
        model, params, adapter, [(ids[i : i + 3], mask[i : i + 3]) for i in (0, 3)]
    )
    pad = lambda x, side: np.pad(x, ((0, 0), (7, 0) if side == "left" else (0, 7)))  # noqa: E731
    right = nlsr_jax.collect_statistics(model, params, adapter, [(pad(ids, "right"), pad(mask, "right"))])
    attended = pad(np.ones(ids.shape, bool), "left")
    left = nlsr_jax.collect_statistics(model, params, adapter, [(pad(ids, "left"), pad(mask, "left"), attended)])
    for other in (halves, right, left):
        for module, gram in whole.gram.items():
            scale = float(jnp.abs(gram).max())
            # Other orders of summation in float32.
            np.testing.assert_allclose(other.gram[module], gram, atol=1e-5 * scale)


def test_no_response_positions_give_zeros(setting):
    _, model, params, adapter, ids, mask = setting
    statistics = nlsr_jax.collect_statistics(model, params, adapter, [(ids, np.zeros_like(mask))])
    assert float(statistics.positions) == 0
    for leaf in jax.tree.leaves((statistics.gram, statistics.input_square)):
        assert not np.asarray(leaf).any()
    masks = nlsr_jax.identify(adapter, statistics)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(masks))


def test_every_module_of_every_layer_is_captured(setting):
    _, model, params, adapter, ids, mask = setting
    statistics = nlsr_jax.collect_statistics(model, params, adapter, [(ids, mask)])
    assert set(statistics.gram) == set(MODULES)
    for module, gram in statistics.gram.items():
        assert gram.shape == (3, *[adapter.factors[module]["a"].shape[1]] * 2)
        assert (np.abs(np.asarray(gram)).max((1, 2)) > 0).all()


def test_adapters_of_some_layers(setting):
    _, model, params, adapter, ids, mask = setting
    some = nlsr_jax.Adapter(
        {"q_proj": jax.tree.map(lambda x: x[[0, 2]], adapter.factors["q_proj"])}, 1.5, {"q_proj": (0, 2)}
    )
    zero = jax.tree.map(np.copy, adapter.factors["q_proj"])
    zero["b"][1] = 0
    whole = nlsr_jax.Adapter({"q_proj": zero}, 1.5)
    np.testing.assert_array_equal(
        nlsr_jax.logits(model, params, ids, some), nlsr_jax.logits(model, params, ids, whole)
    )
    found = nlsr_jax.collect_statistics(model, params, some, [(ids, mask)])
    every = nlsr_jax.collect_statistics(model, params, whole, [(ids, mask)])
    np.testing.assert_array_equal(found.gram["q_proj"], every.gram["q_proj"][jnp.array([0, 2])])


def torch_mean_absolute(peer, losses):
    """Mean over losses of |∂L/∂W| as ``{(layer, module, factor): array}``, in the stored scaling."""
    total = {}
    for loss in losses:
        peer.zero_grad()
        loss().backward()
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                key = _place(name)
                total[key] = total.get(key, 0) + weight.grad.abs().numpy()
    return {key: value / len(losses) for key, value in total.items()}


def _place(name):
    """Layer, module and factor of a PEFT parameter."""
    parts = name.split(".")
    module = next(p for p in parts if p in MODULES)
    return int(parts[parts.index("layers") + 1]), module, "a" if "lora_A" in name else "b"


def sum_log_probability(peer, ids, mask):
    scores = torch.log_softmax(peer(torch.tensor(ids[None], dtype=torch.long)).logits[0, :-1], -1)
    chosen = scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:], dtype=torch.long)]
    return chosen[torch.tensor(mask[1:])].sum()


@pytest.mark.parametrize("objective", ["snip", "preference_snip"])
def test_gradients_equal_autograd(setting, objective):
    peer, model, params, adapter, ids, mask = setting
    for name, weight in peer.named_parameters():
        weight.requires_grad_("lora_" in name)
    if objective == "snip":
        batches = [(ids[:2], mask[:2]), (ids[2:4], mask[2:4])]
        losses = [lambda i=i: -sum_log_probability(peer, ids[i], mask[i]) / mask[i, 1:].sum() for i in range(4)]
    else:
        batches = [(ids[:2], mask[:2], ids[2:4], mask[2:4])]

        def loss(i):
            policy = sum_log_probability(peer, ids[i], mask[i]) - sum_log_probability(peer, ids[i + 2], mask[i + 2])
            with torch.no_grad(), peer.disable_adapter():
                base = sum_log_probability(peer, ids[i], mask[i]) - sum_log_probability(
                    peer, ids[i + 2], mask[i + 2]
                )
            return -torch.nn.functional.logsigmoid(0.1 * (policy - base))

        losses = [lambda i=i: loss(i) for i in range(2)]
    found = nlsr_jax.collect_gradients(model, params, adapter, batches, objective=objective)
    for (layer, module, factor), expected in torch_mean_absolute(peer, losses).items():
        # Float32 backward through three layers.
        error = np.abs(np.asarray(found[module][factor][layer]) - expected).max()
        assert error < 1e-4 * np.abs(expected).max()


def test_the_loss_gradient_equals_autograd(setting):
    peer, model, params, adapter, ids, mask = setting
    for name, weight in peer.named_parameters():
        weight.requires_grad_("lora_" in name)
    peer.zero_grad()
    losses = [-sum_log_probability(peer, ids[i], mask[i]) / mask[i, 1:].sum() for i in range(4)]
    (sum(losses) / 4).backward()
    parts = [(ids[:3], mask[:3]), (ids[3:5], np.concatenate([mask[3:4], np.zeros_like(mask[:1])]))]
    found = nlsr_jax.collect_loss_gradient(model, params, adapter, parts)
    seen = 0
    for name, weight in peer.named_parameters():
        if "lora_" in name:
            layer, module, factor = _place(name)
            # Float32 backward through three layers.
            error = np.abs(np.asarray(found[module][factor][layer]) - weight.grad.numpy()).max()
            assert error < 1e-4 * np.abs(weight.grad.numpy()).max()
            seen += 1
    assert seen == 3 * 2 * len(adapter.factors)


def test_the_loss_gradient_takes_two_arrays(setting):
    _, model, params, adapter, ids, mask = setting
    with pytest.raises(InputError, match="takes batches of 2 arrays, found 4"):
        nlsr_jax.collect_loss_gradient(model, params, adapter, [(ids, mask, ids, mask)])


def test_rows_without_response_do_not_count(setting):
    _, model, params, adapter, ids, mask = setting
    none = np.zeros_like(mask[:1])
    twice = np.concatenate([ids[:1], ids[:1]])
    alone = nlsr_jax.collect_gradients(model, params, adapter, [(twice, mask[[0, 0]])])
    both = nlsr_jax.collect_gradients(model, params, adapter, [(ids[:2], np.concatenate([mask[:1], none]))])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-9), alone, both)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"w_proj": a["q_proj"]}, "unknown module 'w_proj'"),
        (lambda a: {"q_proj": a["down_proj"]}, "q_proj maps 56 features to 32, the model's maps 32 to 32"),
        (lambda a: {"q_proj": jax.tree.map(lambda x: x[:2], a["q_proj"])}, "q_proj has 2 layers, the model 3"),
    ],
)
def test_adapters_that_do_not_fit_are_named(setting, change, message):
    _, model, params, adapter, ids, mask = setting
    other = nlsr_jax.Adapter(change(adapter.factors), 1.0)
    with pytest.raises(InputError, match=message):
        nlsr_jax.logits(model, params, ids, other)
    with pytest.raises(InputError, match=message):
        nlsr_jax.collect_statistics(model, params, other, [(ids, mask)])


def test_layers_out_of_range_are_named(setting):
    _, model, params, adapter, ids, _ = setting
    other = dataclasses.replace(adapter, layers=dict.fromkeys(MODULES, (0, 1, 3)))
    with pytest.raises(InputError, match=r"q_proj adapts layers \[0, 1, 3\]; the model has 3"):
        nlsr_jax.logits(model, params, ids, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 2, "temperature": 1.0}, "needs a PRNG key"),
        ({"max_new_tokens": 2, "temperature": -1.0}, "temperature is -1"),
        ({"max_new_tokens": 2, "attention_mask": np.array([[1, 1, 0]])}, "padded on the left"),
        ({"max_new_tokens": 2, "attention_mask": np.ones((1, 2))}, "attention_mask is"),
    ],
)
def test_bad_generation_settings_are_named(setting, arguments, message):
    _, model, params, _, ids, _ = setting
    with pytest.raises(InputError, match=message):
        nlsr_jax.generate(model, params, ids[:1, :3], **arguments)


def test_tokens_out_of_range_are_named(setting):
    _, model, params, _, ids, _ = setting
    with pytest.raises(InputError, match="the vocabulary has 97"):
        nlsr_jax.logits(model, params, ids + 97)
    with pytest.raises(InputError, match="expected integers"):
        nlsr_jax.logits(model, params, ids.astype(np.float32))


def test_scaling_per_layer_is_applied(setting):
    _, model, params, adapter, ids, _ = setting
    tuned = dataclasses.replace(adapter, scaling=dict.fromkeys(MODULES, (0.5, 1.5, 2.5)))
    folded = {
        m: {"a": f["a"], "b": f["b"] * layer_scaling(tuned, m)[:, None, None]} for m, f in adapter.factors.items()
    }
    np.testing.assert_allclose(
        nlsr_jax.logits(model, params, ids, tuned),
        nlsr_jax.logits(model, params, ids, nlsr_jax.Adapter(folded, 1.0)),
        atol=1e-5,
    )
