"""The automatic choice on the shipped study: safe answers begin as often as is wanted, at the least cost."""

import json

import numpy as np
import pytest

from nlsr_jax.calibration.automatic import _halves, choose_settings, relative_change
from nlsr_jax.calibration.climbing import Trial, climb
from nlsr_jax.calibration.loss import collect_loss, collect_loss_gradient
from nlsr_jax.calibration.openings import collect_divergence, collect_openings, find_openings
from nlsr_jax.calibration.search import SearchSettings
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.data.examples import Example
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.models import logits
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.repairs import calibration_batches
from nlsr_jax.study.toy import ToyWorld
from tests.e2e.command import run

PLAIN = SearchSettings()
FEW = {
    "aim": 0.9,
    "betas": (4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
    "shares": (1e-5, 3e-4, 3e-3),
    "fewer": (),
    "more": (),
}


@pytest.fixture(scope="module")
def study():
    base = load_base(SHIPPED / "base", ToyWorld())
    adapters = {n: load_adapter(SHIPPED / n, base.model.config) for n in ("sft", "dpo", "finetuned_sst2")}
    lines = (SHIPPED / "calibration.jsonl").read_text().splitlines()[:24]
    rows = [Example(**json.loads(line)) for line in lines]
    return base, adapters, calibration_batches(base, rows, 12, 64)


found_before = {}


def choose(study, finetuned="finetuned_sst2", **options):
    """The choice, made once for all tests that ask for the same."""
    asked = (finetuned, *sorted(options.items()))
    if asked not in found_before:
        found_before[asked] = choose_anew(study, finetuned, **options)
    return found_before[asked]


def choose_anew(study, finetuned, **options):
    base, adapters, batches = study
    settings = SearchSettings(**{**FEW, **options})
    return choose_settings(
        base.model, base.params, adapters[finetuned], adapters["dpo"], adapters["sft"], batches, settings=settings
    )


def log_probabilities(study, adapter, temperature=1.0):
    """Every row's tokens and mask, and the log-probabilities of what follows each of its tokens."""
    base, _, batches = study
    for tokens, mask in batches:
        scores = np.asarray(logits(base.model, base.params, tokens, adapter=adapter), np.float64) / temperature
        scores -= scores.max(-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        yield from zip(tokens, np.asarray(mask, bool), scores, strict=True)


def test_the_loss_is_the_mean_over_rows_of_the_mean_over_their_tokens(study):
    base, adapters, batches = study
    found = float(collect_loss(base.model, base.params, adapters["dpo"], batches))
    losses = [
        -np.mean([values[i - 1, row[i]] for i in np.flatnonzero(keep)])
        for row, keep, values in log_probabilities(study, adapters["dpo"])
    ]
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def openings(study, depth=2):
    return find_openings(study[0].model, study[2], depth=depth)


@pytest.mark.parametrize("depth", [1, 2, 1000])
def test_an_answer_may_begin_as_any_that_begins_as_the_rows_own(study, depth):
    base, adapters, batches = study
    found = float(collect_openings(base.model, base.params, adapters["dpo"], batches, openings(study, depth)))
    responses = [tuple(row[keep][:depth]) for row, keep, _ in log_probabilities(study, adapters["dpo"])]
    each = []
    for row, keep, values in log_probabilities(study, adapters["dpo"], temperature=0.5):
        own, likely = row[keep][:depth], 1.0
        for k, place in enumerate(np.flatnonzero(keep)[:depth]):
            among = {other[k] for other in responses if len(other) > k and other[:k] == tuple(own[:k])}
            likely *= np.exp(values[place - 1, sorted(among)]).sum()
        each.append(likely)
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def test_a_row_without_a_response_does_not_count(study):
    base, adapters, batches = study
    tokens, mask = batches[0]
    more = [(np.concatenate([tokens, tokens[:2]]), np.concatenate([mask, np.zeros_like(mask[:2])]))]
    one, two = (
        float(collect_openings(base.model, base.params, adapters["dpo"], rows, openings(study)))
        for rows in (batches[:1], more)
    )
    assert one == pytest.approx(two, rel=1e-5)
    one, two = (
        float(collect_divergence(base.model, base.params, None, adapters["dpo"], rows))
        for rows in (batches[:1], more)
    )
    assert one == pytest.approx(two, rel=1e-5)


def test_an_opening_that_is_none_is_refused(study):
    base, adapters, batches = study
    tokens, mask = (np.array(part) for part in batches[0])
    few = find_openings(base.model, [(tokens[:1], mask[:1])], depth=2)
    with pytest.raises(InputError, match="which is none of the openings"):
        collect_openings(base.model, base.params, adapters["dpo"], batches, few)


def test_the_divergence_is_that_of_what_is_expected_next_while_a_request_is_read(study):
    base, adapters, batches = study
    pair = adapters["dpo"], adapters["finetuned_sst2"]
    found = float(collect_divergence(base.model, base.params, *pair, batches))
    each = []
    for one, other in zip(*(log_probabilities(study, adapter) for adapter in pair), strict=True):
        before, after = one[2], other[2]
        asked = np.flatnonzero(one[1])[0] - 1  # what follows the request's last token is the answer's first
        each.append(np.mean(np.sum(np.exp(before) * (before - after), -1)[:asked]))
    assert found == pytest.approx(np.mean(each), rel=1e-4)
    assert float(collect_divergence(base.model, base.params, pair[0], pair[0], batches)) == 0


def measured(study):
    return [(tokens[1::2], mask[1::2]) for tokens, mask in study[2]]


def opening(study, adapter):
    base = study[0]
    return float(collect_openings(base.model, base.params, adapter, measured(study), openings(study)))


def divergence(study, adapter):
    base, adapters, _ = study
    before = adapters["finetuned_sst2"]
    return float(collect_divergence(base.model, base.params, before, adapter, measured(study)))


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


def test_it_reaches_the_aim_by_the_least_amplification_and_divergence(study):
    found = choose(study)
    assert found.target == found.aimed == 0.9
    assert found.finetuned == pytest.approx(opening(study, study[1]["finetuned_sst2"]), rel=1e-6)
    assert found.aligned == pytest.approx(opening(study, study[1]["dpo"]), rel=1e-6)
    assert found.finetuned < found.aligned < found.target
    assert found.met
    few = [trial.probability for trial in found.trials if trial.share == 1e-5]
    assert max(few) < found.target, "with these amplifications a hundred-thousandth of the entries cannot reach it"
    assert [candidate.share for candidate in found.candidates] == [3e-4, 3e-3]
    for candidate in found.candidates:
        tried = [trial for trial in found.trials if trial.share == candidate.share]
        assert max(trial.probability for trial in tried) ** PLAIN.headroom >= found.target
        assert candidate[:3] == min((t for t in tried if t.probability >= found.target), key=lambda t: t.beta)
        below = [trial.beta for trial in tried if trial.beta < candidate.beta]
        assert not below or candidate.beta < 1.1 * max(below)
        assert candidate.divergence == pytest.approx(divergence(study, repaired(study, candidate, 0)), rel=1e-4)
    assert found.chosen == min(found.candidates, key=lambda one: one.divergence)[:3]
    assert choose_anew(study, "finetuned_sst2") == found


def test_fewer_entries_are_tried_where_the_others_disturb_or_do_not_suffice(study):
    some = {"shares": (3e-4, 3e-3), "fewer": (1e-4,)}
    calm = choose(study, **some)
    assert {trial.share for trial in calm.trials} == {0.0, 3e-4, 3e-3}
    short = choose(study, **some, aim=0.9999)
    assert {trial.share for trial in short.trials} == {0.0, 1e-4, 3e-4, 3e-3}
    disturbed = choose(study, **some, disturbed=0.0)
    assert {trial.share for trial in disturbed.trials} == {0.0, 1e-4, 3e-4, 3e-3}
    assert len(set(disturbed.trials)) == len(disturbed.trials), "nothing is measured twice"
    assert disturbed.candidates[-2:] == calm.candidates


def test_more_entries_are_tried_only_until_the_aligned_models_safety_is_reached(study):
    few = choose(study, shares=(1e-5,), more=(3e-4, 1e-2))
    assert few.chosen.share == 3e-4
    assert {trial.share for trial in few.trials} == {0.0, 1e-5, 3e-4}
    enough = choose(study, aim=0.9999, shares=(3e-4,), more=(1e-2,))
    assert {trial.share for trial in enough.trials} == {0.0, 3e-4}
    assert not enough.met


def test_what_the_aligned_model_has_needs_no_headroom(study):
    found = choose(study, aim=0.9999, headroom=1000.0, shares=(3e-4,))
    assert found.target == found.aligned <= found.chosen.probability


def test_what_is_chosen_is_what_was_measured(study):
    found = choose(study)
    adapter = repaired(study, found.chosen, 0)
    assert opening(study, adapter) == pytest.approx(found.chosen.probability, rel=1e-5)
    assert relative_change(adapter, study[1]["finetuned_sst2"]) == pytest.approx(found.change, rel=1e-5)


def test_a_climb_goes_down_where_a_share_needs_less_than_the_one_before(study):
    """Whatever was found for more entries, the least amplification is found."""
    betas = (1.0, 4.0, 16.0, 64.0, 256.0)
    alone = choose(study, share=3e-4, betas=betas).candidates
    after = choose(study, shares=(3e-4, 3e-3, 1e-2), betas=betas).candidates
    assert after[0] == alone[0]
    tried = []

    def attempt(beta):
        tried.append(beta)
        return Trial(beta, 0.1, min(1.0, beta / 100))

    climbed = climb(attempt, betas, 0.1, 4)
    assert (tried, [trial.beta for trial in climbed]) == ([256.0, 64.0, 16.0, 4.0], [4.0, 16.0, 64.0, 256.0])
    assert [trial.beta for trial in climb(attempt, betas, 0.1, 0)] == [1.0, 4.0, 16.0]


def test_an_adapter_that_is_safe_enough_is_left_alone(study):
    found = choose(study, finetuned="dpo", aim=0.5)
    assert (found.chosen.share, found.change, found.met) == (0.0, 0.0, True)
    assert found.aimed == found.aligned > 0.5
    assert len(found.trials) == 1


def test_no_less_than_the_aligned_adapters_safety_is_aimed_at(study):
    found = choose(study, aim=0.01)
    assert found.aimed == found.target == found.aligned
    assert found.chosen.probability >= found.aligned


def test_what_cannot_be_reached_is_said_and_a_target_with_headroom_is_taken(study):
    found = choose(study, aim=0.9999, shares=(3e-4,))
    assert not found.met
    assert found.aimed == 0.9999
    furthest = max(trial.probability for trial in found.trials if trial.beta in FEW["betas"])
    assert found.target == pytest.approx(furthest**PLAIN.headroom, rel=1e-6)
    assert found.target <= found.chosen.probability < found.aimed


def test_without_headroom_the_best_is_taken(study):
    found = choose(study, aim=0.9999, headroom=1.0, shares=(3e-4,))
    assert not found.met
    assert found.chosen.probability == max(trial.probability for trial in found.trials)


def test_an_aim_at_the_limit_of_all_shares_is_neared_with_the_one_that_comes_furthest(study):
    few = {"betas": (4.0, 8.0, 16.0), "shares": (3e-4, 3e-3)}
    best = choose(study, aim=0.9999, headroom=1.0, **few).chosen
    assert best.share == 3e-3
    found = choose(study, **few, aim=0.999 * best.probability)
    assert not found.met
    assert found.chosen.share == best.share
    assert found.target == pytest.approx(best.probability**PLAIN.headroom, rel=1e-6)
    assert found.chosen.beta <= best.beta


def test_one_share_can_be_asked_for(study):
    found = choose(study, share=3e-4)
    assert {trial.share for trial in found.trials} == {0.0, 3e-4}
    assert found == choose(study, shares=(3e-4,))
    with pytest.raises(InputError, match=r"shares are \[2\]"):
        choose(study, share=2)


def test_an_amplification_beyond_numbers_is_not_chosen(study):
    found = choose(study, betas=(1e37, 3e38), shares=(1e-3,))
    assert not found.met
    assert found.chosen.share == 0


@pytest.mark.parametrize("name", ["betas", "shares", "fewer", "more"])
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
    assert f"as safe ones do, 0 to 1. (default: '{PLAIN.aim:g}')" in printed
    assert f"able to come than its target. (default: '{PLAIN.headroom:g}')" in printed


@pytest.mark.parametrize("aim", [float("nan"), 0.0, 1.0, 1.2])
def test_the_aim_is_checked(study, aim):
    with pytest.raises(InputError, match="expected a probability, above 0 and below 1"):
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


def test_tokens_that_the_model_has_not_are_refused(study):
    base, adapters, batches = study
    tokens, mask = (np.array(part) for part in batches[0])
    tokens[0, 0] = base.model.config.vocab_size
    pair = adapters["finetuned_sst2"], adapters["dpo"]
    with pytest.raises(InputError, match="the vocabulary has"):
        choose_settings(base.model, base.params, *pair, None, [(tokens, mask)])


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
