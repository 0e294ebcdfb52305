"""The automatic choice on the shipped study: safe answers begin as often as is wanted, by the least change."""

import json

import jax
import numpy as np
import pytest

from experiments.configs.tiny import SHIPPED
from nlsr_jax.automatic import AIM, HEADROOM, _halves, choose_settings, relative_change
from nlsr_jax.data.examples import Example
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.laboratory.pretraining import load_base
from nlsr_jax.laboratory.repairs import calibration_batches
from nlsr_jax.laboratory.toy import ToyWorld
from nlsr_jax.models import logits
from nlsr_jax.models.capture import collect_loss, collect_loss_gradient, collect_openings
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from tests.e2e.command import run

FEW = {"aim": 1.1, "betas": (16.0, 32.0, 64.0, 128.0), "shares": (1e-5, 3e-4, 1e-2), "more": ()}


@pytest.fixture(scope="module")
def study():
    base = load_base(SHIPPED / "base", ToyWorld())
    adapters = {n: load_adapter(SHIPPED / n, base.model.config) for n in ("sft", "dpo", "finetuned_sst2")}
    lines = (SHIPPED / "calibration.jsonl").read_text().splitlines()[:200]
    rows = [Example(**json.loads(line)) for line in lines]
    return base, adapters, calibration_batches(base, rows, 50, 64)


def choose(study, finetuned="finetuned_sst2", **options):
    base, adapters, batches = study
    given = {**FEW, **options}
    return choose_settings(
        base.model, base.params, adapters[finetuned], adapters["dpo"], adapters["sft"], batches, **given
    )


def log_probabilities(study, adapter):
    """The log-probabilities of every row's response tokens."""
    base, _, batches = study
    for tokens, mask in batches:
        scores = np.asarray(logits(base.model, base.params, tokens, adapter=adapter), np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        for row, keep, values in zip(tokens, mask, scores, strict=True):
            where = np.flatnonzero(keep)
            if where.size:
                yield [values[i - 1, row[i]] for i in where]


def test_the_loss_is_the_mean_over_rows_of_the_mean_over_their_tokens(study):
    base, adapters, batches = study
    found = float(collect_loss(base.model, base.params, adapters["dpo"], batches))
    losses = [-np.mean(values) for values in log_probabilities(study, adapters["dpo"])]
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("depth", [1, 3, 1000])
def test_the_opening_is_the_mean_over_rows_of_the_probability_of_their_first_tokens(study, depth):
    base, adapters, batches = study
    found = float(collect_openings(base.model, base.params, adapters["dpo"], batches, depth=depth))
    each = [np.exp(np.sum(values[:depth])) for values in log_probabilities(study, adapters["dpo"])]
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def opening(study, adapter):
    base, _, batches = study
    other = [(tokens[1::2], mask[1::2]) for tokens, mask in batches]
    return float(collect_openings(base.model, base.params, adapter, other, depth=3))


def repaired(study, trial, half=None):
    """The adapter of a trial, masks made of every second row where ``half`` is 0."""
    base, adapters, batches = study
    made = batches if half is None else [(tokens[half::2], mask[half::2]) for tokens, mask in batches]
    tuned, reference = adapters["finetuned_sst2"], amplify(adapters["dpo"], adapters["sft"], beta=trial.beta)
    masks = identify(
        reference,
        sparsity=1 - trial.share,
        method="gain",
        granularity="adapter",
        gradients=collect_loss_gradient(base.model, base.params, tuned, made),
        finetuned=tuned,
    )
    pruned = {module: np.zeros(leaf["a"].shape[0], bool) for module, leaf in tuned.factors.items()}
    return correct(tuned, reference, masks, pruned)


def test_it_reaches_the_aim_by_the_least_amplification_and_change(study):
    found = choose(study)
    assert found.target == found.aimed == pytest.approx(1.1 * opening(study, study[1]["dpo"]), rel=1e-6)
    assert found.finetuned == pytest.approx(opening(study, study[1]["finetuned_sst2"]), rel=1e-6)
    assert found.finetuned < 0.6 * found.target
    assert found.met
    few = [trial.probability for trial in found.trials if trial.share == 1e-5]
    assert max(few) < HEADROOM * found.target, "a hundred-thousandth of the entries cannot reach it"
    least = []
    for share in (3e-4, 1e-2):
        tried = [trial for trial in found.trials if trial.share == share]
        assert max(trial.probability for trial in tried) >= HEADROOM * found.target
        least.append(min((t for t in tried if t.probability >= found.target), key=lambda t: t.beta))
        below = [trial.beta for trial in tried if trial.beta < least[-1].beta]
        assert not below or least[-1].beta < 1.1 * max(below)
    changes = [relative_change(repaired(study, trial, 0), study[1]["finetuned_sst2"]) for trial in least]
    assert found.chosen == least[int(np.argmin(changes))]
    assert found.change == pytest.approx(min(changes), rel=1e-5)
    assert choose(study) == found


def test_more_entries_are_tried_only_until_the_aligned_models_safety_is_reached(study):
    few = choose(study, shares=(1e-5,), more=(3e-4, 1e-2))
    assert few.chosen.share == 3e-4
    assert {trial.share for trial in few.trials} == {0.0, 1e-5, 3e-4}
    enough = choose(study, aim=100.0, shares=(3e-4,), more=(1e-2,))
    assert {trial.share for trial in enough.trials} == {0.0, 3e-4}
    assert not enough.met


def test_what_is_chosen_is_what_was_measured(study):
    found = choose(study)
    adapter = repaired(study, found.chosen, 0)
    assert opening(study, adapter) == pytest.approx(found.chosen.probability, rel=1e-5)
    assert relative_change(adapter, study[1]["finetuned_sst2"]) == pytest.approx(found.change, rel=1e-5)


def test_an_adapter_that_lost_nothing_is_left_alone(study):
    found = choose(study, finetuned="dpo", aim=1.0)
    assert (found.chosen.share, found.change, found.met) == (0.0, 0.0, True)
    assert len(found.trials) == 1


def test_what_cannot_be_reached_is_said_and_a_target_with_headroom_is_taken(study):
    found = choose(study, aim=100.0, shares=(3e-4,))
    assert not found.met
    assert found.aimed == pytest.approx(100 * opening(study, study[1]["dpo"]), rel=1e-6)
    assert found.target == pytest.approx(max(trial.probability for trial in found.trials) / HEADROOM, rel=1e-6)
    assert found.target <= found.chosen.probability < found.aimed


def test_without_headroom_the_best_is_taken(study):
    found = choose(study, aim=100.0, headroom=1.0, shares=(3e-4,))
    assert not found.met
    assert found.chosen.probability == max(trial.probability for trial in found.trials)


def test_an_aim_at_the_limit_of_all_shares_is_neared_with_the_one_that_comes_furthest(study):
    few = {"betas": (4.0, 8.0, 16.0, 32.0), "shares": (3e-4, 1e-2)}
    best = choose(study, aim=100.0, headroom=1.0, **few).chosen
    assert best.share == 1e-2
    found = choose(study, **few, aim=0.97 * best.probability / opening(study, study[1]["dpo"]))
    assert not found.met
    assert found.chosen.share == best.share
    furthest = max(trial.probability for trial in found.trials if trial.beta in few["betas"])
    assert found.target == pytest.approx(furthest / HEADROOM, rel=1e-6)
    assert found.chosen.beta <= best.beta


def test_one_share_can_be_asked_for(study):
    found = choose(study, share=3e-4, more=(1e-2,))
    assert {trial.share for trial in found.trials} == {0.0, 3e-4}
    assert found == choose(study, shares=(3e-4,), more=())
    with pytest.raises(InputError, match=r"shares are \[2\]"):
        choose(study, share=2)


def test_an_amplification_beyond_numbers_is_not_chosen(study):
    found = choose(study, betas=(1e37, 3e38), shares=(1e-3,), aim=100.0)
    assert not found.met
    assert found.chosen.share == 0


@pytest.mark.parametrize("name", ["betas", "shares", "more"])
@pytest.mark.parametrize("values", [(0.1, 0.01), (0.0, 0.1)])
def test_betas_and_shares_must_rise(study, name, values):
    with pytest.raises(InputError, match=f"{name} are .*; expected numbers that rise"):
        choose(study, **{name: values})


@pytest.mark.parametrize("name", ["betas", "shares"])
def test_betas_and_shares_are_given(study, name):
    with pytest.raises(InputError, match=f"{name} are \\[\\]; expected numbers that rise"):
        choose(study, **{name: ()})


def test_a_share_is_below_one(study):
    with pytest.raises(InputError, match="above 0 and below 1"):
        choose(study, shares=(0.1, 1.0))


def test_the_commands_aim_is_the_functions():
    printed = " ".join(run("realign", "--helpfull", check=False).stdout.split())
    assert f"as a multiple of the aligned model's. (default: '{AIM:g}')" in printed
    assert f"must be able to pass its aim. (default: '{HEADROOM:g}')" in printed


@pytest.mark.parametrize("aim", [float("nan"), 0.0])
def test_the_aim_is_checked(study, aim):
    with pytest.raises(InputError, match="expected a number above 0"):
        choose(study, aim=aim)


@pytest.mark.parametrize("headroom", [float("inf"), 0.9])
def test_the_headroom_is_checked(study, headroom):
    with pytest.raises(InputError, match="expected a number of at least 1"):
        choose(study, headroom=headroom)


def test_the_depth_is_checked(study):
    with pytest.raises(InputError, match="depth is 0; expected at least 1"):
        choose(study, depth=0)


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
