"""The automatic choice on the shipped study: it undoes the damage on safe answers, and leaves the whole alone."""

import json

import jax
import numpy as np
import pytest

from experiments.configs.tiny import SHIPPED
from nlsr_jax.automatic import _halves, choose_settings, relative_change
from nlsr_jax.data.examples import Example
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.laboratory.pretraining import load_base
from nlsr_jax.laboratory.repairs import calibration_batches
from nlsr_jax.laboratory.toy import ToyWorld
from nlsr_jax.models.capture import collect_loss
from nlsr_jax.nlsr.amplify import amplify

FEW = {"betas": (0.0, 0.9), "shares": (0.001, 0.004, 0.016)}


@pytest.fixture(scope="module")
def study():
    base = load_base(SHIPPED / "base", ToyWorld())
    adapters = {n: load_adapter(SHIPPED / n, base.model.config) for n in ("sft", "dpo", "finetuned_sst2")}
    lines = (SHIPPED / "calibration.jsonl").read_text().splitlines()[:80]
    rows = [Example(**json.loads(line)) for line in lines]
    return base, adapters, calibration_batches(base, rows, 20, 64)


def choose(study, finetuned="finetuned_sst2", **options):
    base, adapters, batches = study
    given = {**FEW, **options}
    return choose_settings(
        base.model, base.params, adapters[finetuned], adapters["dpo"], adapters["sft"], batches, **given
    )


def test_the_loss_is_the_mean_over_rows_of_the_mean_over_their_tokens(study):
    base, adapters, batches = study
    found = float(collect_loss(base.model, base.params, adapters["dpo"], batches))
    from nlsr_jax.models import logits

    losses = []
    for tokens, mask in batches:
        scores = np.asarray(logits(base.model, base.params, tokens, adapter=adapters["dpo"]), np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        for row, keep, values in zip(tokens, mask, scores, strict=True):
            where = np.flatnonzero(keep)
            losses += [-np.mean([values[i - 1, row[i]] for i in where])] if where.size else []
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_it_makes_safe_answers_as_likely_as_before_by_the_least_change(study):
    found = choose(study)
    base, adapters, batches = study
    other = [(tokens[1::2], mask[1::2]) for tokens, mask in batches]
    aligned = float(collect_loss(base.model, base.params, adapters["dpo"], other))
    assert found.target == pytest.approx(aligned, rel=1e-6)
    assert found.finetuned > 1.05 * found.target
    assert found.met
    assert found.chosen.loss <= found.target
    enough = [trial for trial in found.trials if trial.loss <= found.target]
    assert found.chosen.change == min(trial.change for trial in enough)
    assert {trial.beta for trial in found.trials} == {0.0, 0.9}
    by_beta = sorted((trial.share, trial.change) for trial in found.trials if trial.beta == 0.9)
    assert by_beta == sorted(by_beta, key=lambda pair: pair[1]), "more entries change more"
    assert choose(study) == found


def test_an_adapter_that_lost_nothing_is_left_alone(study):
    found = choose(study, finetuned="dpo")
    assert (found.chosen.share, found.chosen.change, found.met) == (0.0, 0.0, True)
    assert len(found.trials) == 1


def test_what_cannot_be_reached_is_said_and_the_best_is_taken(study):
    found = choose(study, tolerance=-0.5, betas=(0.0,))
    assert not found.met
    assert found.chosen.loss == min(trial.loss for trial in found.trials)


@pytest.mark.parametrize("shares", [(), (0.1, 0.01), (0.0, 0.1), (0.1, 1.0)])
def test_shares_must_rise_within_their_range(study, shares):
    with pytest.raises(InputError, match="expected numbers that rise"):
        choose(study, shares=shares)


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0])
def test_the_tolerance_is_checked(study, tolerance):
    with pytest.raises(InputError, match="expected a number above -1"):
        choose(study, tolerance=tolerance)


def test_rows_are_halved_over_batches_of_any_size(study):
    tokens, mask = (np.concatenate(parts)[:7] for parts in zip(*study[2], strict=True))
    mask[3] = False  # no response: does not count
    whole = [i for i in range(7) if i != 3]
    for size in (1, 2, 3, 7):
        batches = [(tokens[i : i + size], mask[i : i + size]) for i in range(0, 7, size)]
        for first in (0, 1):
            found = np.concatenate([rows for rows, _ in _halves(batches, first)])
            np.testing.assert_array_equal(found, tokens[whole[first::2]])


def test_one_row_cannot_be_measured_on(study):
    base, adapters, batches = study
    tokens, mask = batches[0]
    with pytest.raises(InputError, match="fewer than two calibration rows"):
        choose_settings(
            base.model, base.params, adapters["finetuned_sst2"], adapters["dpo"], None, [(tokens[:1], mask[:1])]
        )


def test_the_change_is_relative_to_the_factors_before(study):
    adapter = study[1]["dpo"]
    doubled = amplify(adapter, None, beta=1.0)
    assert relative_change(doubled, adapter) == pytest.approx(1.0, rel=1e-5)
    assert relative_change(adapter, adapter) == 0
    jax.clear_caches()
