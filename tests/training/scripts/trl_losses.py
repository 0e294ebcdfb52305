"""Make ``trl_losses.json``: the losses of whole batches as TRL computes them, in torch float64.

TRL's formulas and conventions, written again from its trainers (SFTTrainer, DPOTrainer, ORPOTrainer, KTOTrainer,
and CPOTrainer with ``loss_type="simpo", cpo_alpha=0``): shifted labels, -100 where a token does not count, sums
over the response for DPO and KTO, means for ORPO and SimPO, ORPO's likelihood over prompt and response.

    python -m tests.training.scripts.trl_losses
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

GOLDEN = pathlib.Path(__file__).with_suffix(".json")
IGNORED = -100
CASES = {
    "sft_token": {"objective": "sft", "loss": "token"},
    "sft_sequence": {"objective": "sft", "loss": "sequence"},
    "dpo": {"objective": "dpo"},
    "dpo_strong": {"objective": "dpo", "beta": 0.7},
    "orpo": {"objective": "orpo"},
    "orpo_strong": {"objective": "orpo", "beta": 1.5},
    "kto": {"objective": "kto", "drift": 6.0},
    "kto_clamped": {"objective": "kto", "drift": -6.0},
    "kto_all_desirable": {"objective": "kto", "drift": 4.0, "desirable": True},
    "kto_all_undesirable": {"objective": "kto", "drift": 4.0, "desirable": False},
    "simpo": {"objective": "simpo"},
    "simpo_trl_defaults": {"objective": "simpo", "beta": 0.1, "gamma": 0.5},
}
BETA = {"sft": 0.0, "dpo": 0.1, "orpo": 0.1, "kto": 0.1, "simpo": 2.0}


class Inputs(NamedTuple):
    """A batch: logits ``[B, P, T, V]``, tokens ``[B, P, T]``, ``[B, P]`` but for the flags ``[B]``."""

    logits: np.ndarray
    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    reference: np.ndarray
    desirable: np.ndarray


def make_inputs(case: dict, seed: int = 0) -> Inputs:
    """Draw the batch of a case: nine rows of different lengths, padded on the right with 0."""
    rng = np.random.default_rng(seed)
    batch, texts, length, vocabulary = 9, 1 if case["objective"] == "sft" else 2, 12, 17
    logits = np.float64(np.float32(rng.normal(size=(batch, texts, length, vocabulary))))
    lengths = rng.integers(3, length + 1, (batch, texts))
    starts = rng.integers(1, lengths - 1)
    tokens = np.where(np.arange(length) < lengths[..., None], rng.integers(1, vocabulary, logits.shape[:3]), 0)
    # Near the policy's own sums, so that no margin saturates; ``drift`` moves the mismatched texts' mean.
    reference = np.float64(np.float32(rng.normal(-3.3, 0.3, (batch, texts)) * (lengths - starts)))
    if "drift" in case:
        reference[:, 1] -= case["drift"]
    desirable = np.full(batch, case["desirable"]) if "desirable" in case else rng.random(batch) < 0.5
    return Inputs(logits, tokens, starts, lengths, reference, desirable)


def trl_loss(case: dict, inputs: Inputs, logits):
    """Return the loss of a batch as a torch scalar; ``logits`` is a float64 tensor of ``inputs.logits``."""
    import torch

    position = torch.arange(inputs.tokens.shape[-1])
    tokens, starts, lengths = (torch.tensor(x).long() for x in (inputs.tokens, inputs.starts, inputs.lengths))
    inside = position < lengths[..., None]
    text_labels = torch.where(inside, tokens, IGNORED)
    labels = torch.where(inside & (position >= starts[..., None]), tokens, IGNORED)
    beta = case.get("beta", BETA[case["objective"]])
    reference, desirable = torch.tensor(inputs.reference), torch.tensor(inputs.desirable)
    if case["objective"] == "sft":
        if case["loss"] == "token":
            return _cross_entropy(logits[:, 0], labels[:, 0])
        return torch.stack([_cross_entropy(logits[i], labels[i]) for i in range(len(labels))]).mean()
    if case["objective"] == "dpo":
        return _dpo(_log_probabilities(logits, labels, average=False), reference, beta)
    if case["objective"] == "kto":
        return _kto(_log_probabilities(logits, labels, average=False), reference, desirable, beta)
    chosen, rejected = _log_probabilities(logits, labels, average=True).unbind(1)
    if case["objective"] == "simpo":
        return _simpo(chosen, rejected, beta, case.get("gamma", 1.0))
    return _cross_entropy(logits[:, 0], text_labels[:, 0]) - _odds_ratio(chosen, rejected, beta)


def _cross_entropy(logits, labels):
    """Mean over all tokens that count, of logits ``[B, T, V]``."""
    import torch

    flat = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    return torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED)


def _log_probabilities(logits, labels, *, average):
    """Sums (or means) over the tokens that count, ``[B, P]``."""
    import torch

    labels = labels[..., 1:]
    counted = labels != IGNORED
    chosen = torch.where(counted, labels, 0)[..., None]
    tokens = torch.gather(logits[..., :-1, :].log_softmax(-1), -1, chosen)[..., 0] * counted
    return tokens.sum(-1) / counted.sum(-1) if average else tokens.sum(-1)


def _dpo(policy, reference, beta):
    import torch

    log_ratios, reference_ratios = policy[:, 0] - policy[:, 1], reference[:, 0] - reference[:, 1]
    return -torch.nn.functional.logsigmoid(beta * (log_ratios - reference_ratios)).mean()


def _kto(policy, reference, desirable, beta):
    import torch

    kl = (policy[:, 1] - reference[:, 1]).mean().detach().clamp(min=0)
    ratios = policy[:, 0] - reference[:, 0]
    chosen = 1 - torch.sigmoid(beta * (ratios[desirable] - kl))
    rejected = 1 - torch.sigmoid(beta * (kl - ratios[~desirable]))
    return torch.cat([chosen, rejected]).nanmean()


def _odds_ratio(chosen, rejected, beta):
    import torch

    def log1mexp(x):
        return torch.where(x > -np.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return (beta * torch.nn.functional.logsigmoid(log_odds)).mean()


def _simpo(chosen, rejected, beta, gamma):
    import torch

    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected - gamma / beta)).mean()


def digest(inputs: Inputs) -> str:
    """SHA-256 of the inputs, in case another NumPy draws others."""
    found = hashlib.sha256()
    for array in inputs:
        found.update(np.ascontiguousarray(np.float64(array)).tobytes())
    return found.hexdigest()


def make_golden() -> dict:
    """Compute all cases."""
    import torch

    golden = {}
    for name, case in CASES.items():
        inputs = make_inputs(case)
        loss = trl_loss(case, inputs, torch.tensor(inputs.logits))
        golden[name] = {"loss": float(loss), "inputs": digest(inputs)}
    return golden


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(make_golden(), indent=1) + "\n")
