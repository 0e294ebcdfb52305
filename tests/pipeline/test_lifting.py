"""Runs without an aligned adapter: the base is the aligned model, and the adapters are lifted."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import delta
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.formats.peft import open_adapter, save_adapter
from nlsr_jax.models.load import save_model
from nlsr_jax.nlsr.settings import RECOMMENDED, RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, Stages, realign_files
from nlsr_jax.pipeline.lifted import Lift, LiftedFile
from nlsr_jax.pipeline.verification import verify
from tests.oracles import random_adapter
from tests.tiny_base import save_base, save_rows

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "down_proj": (48, 32)}


def small(seed, rank, scaling=2.0):
    found = random_adapter(seed, layers=2, rank=rank, sizes=SIZES, scaling=scaling)
    return jax.tree.map(lambda x: np.float32(0.1) * x, found)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pretrained model, an aligned one, a customer's adapter on that, and calibration rows."""
    folder = tmp_path_factory.mktemp("holdings")
    model, params = nlsr_jax.load_model(save_base(folder / "pretrained"))
    layers = {module: dict(leaf) for module, leaf in params["layers"].items()}
    for module, update in delta(small(1, rank=2)).items():
        layers[module]["kernel"] = layers[module]["kernel"] + update
    save_model(model, {**params, "layers": layers}, folder / "instruct")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "instruct" / name).write_bytes((folder / "pretrained" / name).read_bytes())
    save_adapter(small(2, rank=3), folder / "fresh", base_model_name_or_path=str(folder / "instruct"))
    save_rows(folder / "rows.jsonl")
    return folder


def settings(files, defaults=RECOMMENDED_ALONE, **changes):
    names = {"base": files / "instruct", "finetuned": files / "fresh", "calibration": files / "rows.jsonl"}
    paths = {name: str(path) for name, path in names.items()}
    return Settings(**{**paths, **dataclasses.asdict(defaults), **changes})


def test_without_the_pretrained_model_rank_and_a_are_the_customers(files, tmp_path):
    record = realign_files(settings(files), tmp_path / "out")
    before, after = nlsr_jax.load_adapter(files / "fresh"), nlsr_jax.load_adapter(tmp_path / "out")
    changed = 0
    for module, leaf in before.factors.items():
        assert np.array_equal(after.factors[module]["a"], leaf["a"])
        now = after.factors[module]["b"]
        assert np.all((now == leaf["b"]) | (now == 0))
        changed += int(np.count_nonzero(now != leaf["b"]))
    assert changed == record["summary"]["changed_entries"] == round(0.02 * record["summary"]["total_entries"])
    assert record["lift"]["ranks"]["q_proj"] == {"own": 3, "direction": 0, "written": 3}
    assert "lineage" not in record
    assert record["warnings"] == []
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "a replaced entry becomes 0" in page
    told = page.partition("<h2>Settings")[0].partition("</style>")[2]
    assert "similarity" not in told.lower()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (3, str(files / "instruct"))


def test_strength_moves_entries_of_the_direction_too(files, tmp_path):
    """A repair of strength 2 moves every entry twice as far as one of strength 1, from the same masks."""
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"), sparsity=0.9, basis="own")
    made = {}
    for strength in (1.0, 2.0):
        realign_files(dataclasses.replace(asked, strength=strength), tmp_path / str(strength))
        made[strength] = delta(nlsr_jax.load_adapter(tmp_path / str(strength)))
    own = delta(nlsr_jax.load_adapter(files / "fresh"))
    for module, before in own.items():
        once, twice = (np.asarray(made[strength][module] - before) for strength in (1.0, 2.0))
        assert np.abs(once).max() > 0
        np.testing.assert_allclose(twice, 2 * once, atol=1e-5)


@pytest.mark.parametrize("stream", [False, True])
def test_with_strength_entries_go_beyond_the_aligned_model(files, tmp_path, stream):
    record = realign_files(settings(files, strength=2.0, stream=stream), tmp_path / "out")
    plain = realign_files(settings(files), tmp_path / "plain")
    folders = files / "fresh", tmp_path / "out", tmp_path / "plain"
    before, after, zero = map(nlsr_jax.load_adapter, folders)
    for module, leaf in before.factors.items():
        assert np.array_equal(after.factors[module]["a"], leaf["a"])
        now, own = after.factors[module]["b"], leaf["b"]
        assert np.array_equal(now, np.where(zero.factors[module]["b"] == own, own, -own))
    assert record["settings"]["strength"] == 2.0
    assert plain["settings"]["strength"] == 1.0
    sizes = [[one["change"] for one in found["modules"]] for found in (record, plain)]
    assert np.allclose(sizes[0], 2 * np.asarray(sizes[1]), rtol=1e-4)
    assert sum(sizes[1]) > 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "moved 2.0 times the distance from its fine-tuned value to the reference's, which is 0" in page
    found = verify(tmp_path / "out", recompute=True)
    assert not found.changed
    assert not found.missing


def test_entries_of_the_direction_are_amplified(files, tmp_path):
    """The written adapter is what the public functions make of these masks, without untouched places of V."""
    beta = 1.5
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"), beta=beta, sparsity=0.95)
    asked = dataclasses.replace(asked, basis="as_is")
    record = realign_files(asked, tmp_path / "out")
    masks = nlsr_jax.load_masks(tmp_path / "out")
    direction = nlsr_jax.safety_direction(files / "instruct", files / "pretrained", rank=3, modules=SIZES)
    lifted = nlsr_jax.lift(nlsr_jax.load_adapter(files / "fresh"), direction)
    reference = nlsr_jax.amplify(lifted.aligned, lifted.weak, beta=beta)
    expected = nlsr_jax.realign(jax.random.key(0), lifted.finetuned, reference, masks, rule="all").adapter
    written = nlsr_jax.load_adapter(tmp_path / "out")
    for module, product in delta(expected).items():
        np.testing.assert_allclose(delta(written)[module], product, atol=1e-6)
        ranks = record["lift"]["ranks"][module]
        assert ranks["direction"] == 3
        touched = masks[module]["b"][:, :, :3].any(axis=(0, 1)).sum()
        assert ranks["written"] == written.factors[module]["a"].shape[1] == 3 + touched
    assert np.max(record["lift"]["residual"]["v_proj"]) < 1e-5
    assert any(masks[module]["b"][:, :, :3].any() for module in SIZES)


def test_a_fresh_adapter_can_be_factored_anew(files, tmp_path):
    basis = "turned"
    record = realign_files(settings(files, basis=basis), tmp_path / "out")
    lifted = nlsr_jax.lift(nlsr_jax.load_adapter(files / "fresh"), basis=basis, key=jax.random.key(0))
    reference = nlsr_jax.amplify(lifted.aligned, lifted.weak, beta=0.0)
    masks = nlsr_jax.load_masks(tmp_path / "out")
    expected = nlsr_jax.realign(jax.random.key(0), lifted.finetuned, reference, masks, rule="all").adapter
    written = nlsr_jax.load_adapter(tmp_path / "out")
    assert written.scaling == 1.0
    for module, product in delta(expected).items():
        np.testing.assert_allclose(delta(written)[module], product, atol=1e-6)
        assert record["lift"]["ranks"][module] == {"own": 3, "direction": 0, "written": 3}
    before = delta(nlsr_jax.load_adapter(files / "fresh"))
    for entry in record["modules"]:
        row = delta(written)[entry["module"]][entry["layer"]]
        old = before[entry["module"]][entry["layer"]]
        assert entry["change"] == pytest.approx(np.linalg.norm(row - old) / np.linalg.norm(old), abs=1e-4)


def test_turned_turns_the_direction_too_and_changes_no_product(files):
    file, key = open_adapter(files / "fresh"), jax.random.key(0)
    direction = nlsr_jax.safety_direction(files / "instruct", files / "pretrained", rank=3, modules=SIZES)
    plain, turned = (LiftedFile(Lift(file, direction, basis=b, key=key), "weak").load() for b in ("own", "turned"))
    for module, product in delta(plain).items():
        np.testing.assert_allclose(delta(turned)[module], product, atol=1e-6)
        sizes = [np.linalg.norm(one.factors[module]["b"][:, :, :3], axis=1) for one in (plain, turned)]
        spread = [size.max(1) / size.min(1) for size in sizes]
        assert np.all(spread[1] < spread[0])


def test_a_lifted_run_can_be_repeated_and_verified(files, tmp_path):
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"))
    realign_files(asked, tmp_path / "out")
    found = verify(tmp_path / "out", recompute=True)
    assert not found.changed
    assert not found.missing
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    assert set(record["inputs"]["pretrained"]["files"]) >= {"config.json", "model.safetensors"}


def test_given_masks_need_no_base(files, tmp_path):
    realign_files(settings(files), tmp_path / "first")
    asked = settings(files, base=None, calibration=None, masks=str(tmp_path / "first"))
    record = realign_files(asked, tmp_path / "second")
    assert record["inputs"]["base"] is None
    files_of = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("first", "second")]
    assert files_of[0] == files_of[1]


def test_the_base_is_the_one_that_the_adapter_names(files, tmp_path):
    record = realign_files(settings(files, base=None), tmp_path / "out")
    assert record["settings"]["base"] == str(files / "instruct")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "low_rank"}, "method low_rank scores the entries of the reference, which are zero"),
        ({"beta": 1.0}, "neither aligned nor pretrained says in which direction"),
        ({"direction_rank": 4}, "direction_rank is given without pretrained"),
        ({"weak": "x"}, "weak is given without aligned"),
        ({"space": "product"}, "space is product; without aligned expected factors"),
        ({"basis": "linear"}, "basis is linear"),
        ({"aligned": "x", "pretrained": "y", "method": "gain"}, "pretrained is for adapters without aligned"),
    ],
)
def test_what_is_refused(files, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        realign_files(settings(files, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_a_known_base_is_told_what_to_give(files, tmp_path):
    save_adapter(small(3, rank=2), tmp_path / "fresh")
    asked = settings(files, base=None, finetuned=str(tmp_path / "fresh"))
    with pytest.raises(InputError, match="leave aligned out and give that model as base"):
        realign_files(asked, tmp_path / "out")
    save_adapter(small(3, rank=2), tmp_path / "named", base_model_name_or_path="nobody/nothing")
    asked = settings(files, base=None, finetuned=str(tmp_path / "named"))
    with pytest.raises(InputError, match=r"base is missing, and nobody/nothing, .* fetch it by hf download"):
        realign_files(asked, tmp_path / "out")


def test_the_automatic_choice_is_for_a_lineage(files, tmp_path):
    with pytest.raises(InputError, match="give refine in place of automatic"):
        realign_files(settings(files), tmp_path / "out", automatic=0.9)


def test_the_pretrained_model_must_be_another(files, tmp_path):
    asked = settings(files, RECOMMENDED, pretrained=str(files / "instruct"))
    with pytest.raises(InputError, match="holds the weights of"):
        realign_files(asked, tmp_path / "out")


def test_base_and_pretrained_the_wrong_way_round_are_refused(files, tmp_path):
    """The repair would lead away from the alignment."""
    exchanged = {"base": str(files / "pretrained"), "pretrained": str(files / "instruct")}
    with pytest.raises(InputError, match="exchange the two if they are the wrong way round"):
        realign_files(settings(files, RECOMMENDED, **exchanged), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    record = realign_files(settings(files, RECOMMENDED, **exchanged, allow_unrelated=True), tmp_path / "out")
    assert "the base models differ by name" in record["warnings"][0]
    assert not verify(tmp_path / "out", recompute=True).changed


def test_names_that_tell_nothing_are_no_reason_to_refuse(files, tmp_path):
    save_adapter(small(2, rank=3), tmp_path / "nameless")
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"), finetuned=str(tmp_path / "nameless"))
    realign_files(asked, tmp_path / "out")


def random_run(files, folder, cache, **changes):
    """A run that factors the direction and needs no forward pass; returns what it said of the direction."""
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"), method="random", **changes)
    said = []
    stages = Stages(show=False)
    stages.say = said.append
    realign_files(asked, folder, stages=stages, cache=None if cache is None else str(cache), draw=lambda _: {})
    return " ".join(line for line in said if line.startswith("direction: ") and "leaves out" not in line)


def test_directions_are_kept_and_taken_from_a_cache(files, tmp_path):
    cache = tmp_path / "cache"
    assert random_run(files, tmp_path / "without", None) == ""
    assert "factored, and kept in" in random_run(files, tmp_path / "first", cache)
    (file,) = cache.iterdir()
    assert random_run(files, tmp_path / "second", cache) == f"direction: taken from {file}"
    written = [tmp_path / name / "adapter_model.safetensors" for name in ("without", "first", "second")]
    assert len({sha256(path) for path in written}) == 1
