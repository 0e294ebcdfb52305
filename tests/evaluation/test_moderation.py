"""The moderation judge against transformers, one text at a time."""

import numpy as np
import pytest
import torch
import transformers

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.moderation import CATEGORIES, moderate
from nlsr_jax.models import classifier
from nlsr_jax.models.classifier import load_classifier
from tests.evaluation.machines import add_end, make_tokenizer
from tests.parity.peers import COMMON

WORDS = ["BEGINNING", "OF", "CONVERSATION:", "USER:", "ASSISTANT:", "brew", "zarn", "stir", "it", "slowly"]
WORDS += [f"ASSISTANT:{word}" for word in ("brew", "stir", "it")]
TOKENIZER = make_tokenizer(WORDS)
RNG = np.random.default_rng(1)
PROMPTS = [" ".join(RNG.choice(WORDS[5:10], 3 + 4 * i)) for i in range(9)]
RESPONSES = [" ".join(["stir", *RNG.choice(WORDS[5:10], 2 + 5 * (8 - i) % 7)]) for i in range(9)]


def save(folder, names):
    """Save a random classifier with these class names and return it."""
    labels = dict(enumerate(names))
    fields = {**COMMON, "max_position_embeddings": 256, "pad_token_id": None}
    config = transformers.LlamaConfig(**fields, id2label=labels, label2id={v: k for k, v in labels.items()})
    torch.manual_seed(3)
    model = transformers.LlamaForSequenceClassification(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * 0.25 + ("norm" in name))
        model.score.weight.mul_(0.6)  # probabilities on both sides of a half
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "model"
    return save(folder, CATEGORIES), *load_classifier(folder)


def expected(peer, max_length):
    """The peer's probabilities of each text alone, without padding."""
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        text = "BEGINNING OF CONVERSATION: USER: " + prompt + " ASSISTANT:" + response + "</s>"
        ids = TOKENIZER(text, truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows.append(torch.sigmoid(peer(ids).logits)[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("max_length", "batch_size"), [(256, 4), (20, 2)])
def test_probabilities_equal_transformers(pair, max_length, batch_size):
    peer, model, params = pair
    theirs = expected(peer, max_length)
    ours = moderate(model, params, TOKENIZER, PROMPTS, RESPONSES, max_length=max_length, batch_size=batch_size)
    assert np.abs(ours.scores - theirs.max(axis=1)).max() < 1e-4  # logits of a few units in float32
    assert ours.flags.tolist() == (theirs > 0.5).tolist()
    assert ours.harmful.tolist() == (theirs.max(axis=1) > 0.5).tolist()
    assert ours.flags.any()
    assert not ours.flags.all()
    assert not ours.unreadable.any()


def test_threshold(pair):
    peer, model, params = pair
    theirs = expected(peer, 256).max(axis=1)
    middle = float(np.sort(theirs)[3:5].mean())
    ours = moderate(model, params, TOKENIZER, PROMPTS, RESPONSES, threshold=middle)
    assert ours.harmful.tolist() == (theirs > middle).tolist()
    assert ours.harmful.sum() == 5


def test_end_token_is_written_once(pair):
    _, model, params = pair
    ended = [response + "</s>" for response in RESPONSES]
    one = moderate(model, params, TOKENIZER, PROMPTS, RESPONSES)
    two = moderate(model, params, TOKENIZER, PROMPTS, ended)
    assert one.scores.tolist() == two.scores.tolist()


def test_one_program_per_bucket(pair):
    _, model, params = pair
    classifier._classify.clear_cache()
    for _ in range(2):
        moderate(model, params, TOKENIZER, PROMPTS, RESPONSES, batch_size=2)
    assert classifier._classify._cache_size() == 2  # lengths up to 32 and up to 64


def test_class_order_is_the_models(tmp_path):
    turned = (*CATEGORIES[5:], *CATEGORIES[:5])
    save(tmp_path / "turned", turned)
    model, params = load_classifier(tmp_path / "turned")
    straight = moderate(model.clone(labels=CATEGORIES), params, TOKENIZER, PROMPTS[:4], RESPONSES[:4])
    named = moderate(model, params, TOKENIZER, PROMPTS[:4], RESPONSES[:4])
    assert named.categories == CATEGORIES
    columns = [turned.index(name) for name in CATEGORIES]
    assert named.flags.tolist() == straight.flags[:, columns].tolist()
    assert named.flags.tolist() != straight.flags.tolist()
    plain = tuple(f"LABEL_{i}" for i in range(14))
    unnamed = moderate(model.clone(labels=plain), params, TOKENIZER, PROMPTS[:4], RESPONSES[:4])
    assert unnamed.flags.tolist() == straight.flags.tolist()


def test_other_classes_are_refused(tmp_path):
    save(tmp_path / "other", ["LABEL_0", "LABEL_1", "LABEL_2"])
    model, params = load_classifier(tmp_path / "other")
    with pytest.raises(InputError, match="3 classes"):
        moderate(model, params, TOKENIZER, PROMPTS, RESPONSES)


@pytest.mark.parametrize("settings", [{"threshold": 0}, {"threshold": 1.5}, {"max_length": 0}, {"batch_size": 0}])
def test_settings_are_checked(pair, settings):
    _, model, params = pair
    with pytest.raises(InputError, match=next(iter(settings))):
        moderate(model, params, TOKENIZER, PROMPTS, RESPONSES, **settings)


def test_tokenizer_without_an_end_is_refused(pair):
    _, model, params = pair
    tokenizer = make_tokenizer(WORDS)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        moderate(model, params, tokenizer, PROMPTS, RESPONSES)


def test_one_end_token_whatever_the_tokenizer_adds_and_none_that_the_classifier_has_not(pair):
    _, model, params = pair
    tokenizer = make_tokenizer(WORDS)
    plain = moderate(model, params, tokenizer, PROMPTS, RESPONSES)
    add_end(tokenizer)
    np.testing.assert_array_equal(moderate(model, params, tokenizer, PROMPTS, RESPONSES).scores, plain.scores)
    tokenizer.add_tokens([f"<new{i}>" for i in range(COMMON["vocab_size"])])
    with pytest.raises(InputError, match=r"row 1: tokens run from 1 to 113; the vocabulary has 97"):
        moderate(model, params, tokenizer, PROMPTS[:2], ["stir", "stir <new96>"])


def test_broken_responses_are_not_shown_to_the_classifier(pair):
    _, model, params = pair
    responses = [*RESPONSES[:2], "", RESPONSES[3], "!!!!", *RESPONSES[5:]]
    whole = moderate(model, params, TOKENIZER, PROMPTS, RESPONSES)
    found = moderate(model, params, TOKENIZER, PROMPTS, responses)
    broken = np.isin(np.arange(9), [2, 4])
    assert np.isnan(found.scores).tolist() == broken.tolist()
    assert np.allclose(found.scores[~broken], whole.scores[~broken], atol=1e-5)  # other batches
    assert not found.harmful[broken].any()
    assert not found.flags[broken].any()
    assert (found.flags[~broken] == whole.flags[~broken]).all()
