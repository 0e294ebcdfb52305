"""Runs on fully fine-tuned models: the base is the aligned model, and matrices are compared entry by entry."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.model_matrices import ModelMatrices
from nlsr_jax.formats.weight_masks import WeightMaskFile
from nlsr_jax.nlsr.settings import RECOMMENDED, RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.hub_cache import commit_of, put_into_cache
from tests.parity.peers import save_peer
from tests.tiny_base import save_base, save_rows, save_tokenizer


def moved(source, target, seed, size, *, dtype=None, shards=1, only="_proj"):
    """Save a model whose weights lie a random step from those of another."""
    draw = np.random.default_rng(seed)
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for name in sorted(tensors):
        value = tensors[name].astype(np.float32)
        step = size * np.abs(value).mean() * draw.standard_normal(value.shape) if only in name else 0
        tensors[name] = (value + step).astype(dtype or tensors[name].dtype)
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return target
    (target / "model.safetensors").unlink()
    places = {
        name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(tensors))
    }
    for file in set(places.values()):
        save_file({n: tensors[n] for n in tensors if places[n] == file}, target / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pretrained model, an aligned one, fine-tuned ones, and calibration rows."""
    folder = tmp_path_factory.mktemp("weights")
    save_base(folder / "pretrained")
    moved(folder / "pretrained", folder / "instruct", 1, 0.1)
    moved(folder / "instruct", folder / "tuned", 2, 0.05)
    moved(folder / "instruct", folder / "sharded", 2, 0.05, dtype=ml_dtypes.bfloat16, shards=3, only="")
    save_rows(folder / "rows.jsonl")
    return folder


def settings(files, defaults=RECOMMENDED_ALONE, **changes):
    names = {"base": files / "instruct", "finetuned": files / "tuned", "calibration": files / "rows.jsonl"}
    paths = {name: str(path) for name, path in names.items()}
    return Settings(**{**paths, **dataclasses.asdict(defaults), **changes})


def matrices(folder):
    model = ModelMatrices(folder)
    return {one: model.read(*one) for one in model}


def masks(folder):
    model = ModelMatrices(folder)
    file = WeightMaskFile(folder, model)
    return {one: file.read(*one) for one in model}


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


@pytest.mark.parametrize("name", ["tuned", "sharded"])
def test_masked_entries_are_the_bases_and_all_others_stay_bit_for_bit(files, tmp_path, name):
    record = realign_files(settings(files, finetuned=str(files / name)), tmp_path / "out")
    before, base, after = (matrices(folder) for folder in (files / name, files / "instruct", tmp_path / "out"))
    kept = masks(tmp_path / "out")
    for one, mask in kept.items():
        expected = np.where(mask, base[one].astype(before[one].dtype), before[one])
        assert np.array_equal(bits(after[one]), bits(expected)), one
    total = sum(mask.size for mask in kept.values())
    assert sum(np.count_nonzero(mask) for mask in kept.values()) == round(0.02 * total)
    assert record["summary"]["changed_entries"] == round(0.02 * total)
    assert record["summary"]["total_entries"] == total
    for shard in (files / name).glob("*.safetensors"):
        one, two = shard.read_bytes(), (tmp_path / "out" / shard.name).read_bytes()
        assert len(one) == len(two)
        assert one[: int.from_bytes(one[:8], "little") + 8] == two[: int.from_bytes(two[:8], "little") + 8]
        old, new = load_file(shard), load_file(tmp_path / "out" / shard.name)
        for tensor in old:
            assert np.array_equal(bits(old[tensor]), bits(new[tensor])) or "_proj" in tensor
    for other in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / other).read_bytes() == (files / name / other).read_bytes()
    assert record["weights"]["carried"]["count"] == 7
    assert bool(record["weights"]["carried"]["changed"]) == (name == "sharded")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "becomes the base's again" in page


def test_with_strength_entries_go_beyond_the_base(files, tmp_path):
    record = realign_files(settings(files, strength=1.5), tmp_path / "out")
    plain = realign_files(settings(files), tmp_path / "plain")
    before, base, after = (matrices(folder) for folder in (files / "tuned", files / "instruct", tmp_path / "out"))
    for one, mask in masks(tmp_path / "out").items():
        moved = np.float32(1.5) * base[one].astype(np.float32) - np.float32(0.5) * before[one].astype(np.float32)
        assert np.allclose(after[one][mask], moved[mask], rtol=1e-5, atol=1e-7), one
        assert np.array_equal(bits(after[one][~mask]), bits(before[one][~mask])), one
    sizes = [[module["change_norm"] for module in found["modules"]] for found in (record, plain)]
    assert np.allclose(sizes[0], 1.5 * np.asarray(sizes[1]), rtol=1e-4)


def test_the_entries_are_those_of_the_highest_gain(files, tmp_path):
    from nlsr_jax.calibration import collect_weight_gradient
    from nlsr_jax.data.calibration import batches, load_calibration, load_tokenizer

    realign_files(settings(files), tmp_path / "out")
    rows = load_calibration(
        str(files / "rows.jsonl"), load_tokenizer(str(files / "tuned")), max_length=512, end_token=True
    )
    model, params = nlsr_jax.load_model(files / "tuned")
    gradient = collect_weight_gradient(model, params, batches(rows.rows, 16, 512))
    before, base = matrices(files / "tuned"), matrices(files / "instruct")
    gain = {(m, i): np.maximum(-gradient[m][i] * (base[m, i] - before[m, i]), 0) for m, i in before}
    kept = masks(tmp_path / "out")
    inside = np.concatenate([gain[one][kept[one]] for one in gain])
    outside = np.concatenate([gain[one][~kept[one]] for one in gain])
    assert inside.min() >= outside.max()
    assert inside.min() > 0


def test_all_entries_of_random_masks_give_the_base(files, tmp_path):
    asked = settings(files, method="random", sparsity=1e-12, calibration=None)
    realign_files(asked, tmp_path / "out")
    base, after = matrices(files / "instruct"), matrices(tmp_path / "out")
    assert all(np.array_equal(base[one], after[one]) for one in base)


def test_transformers_loads_what_is_written(files, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    realign_files(settings(files, finetuned=str(files / "sharded")), tmp_path / "out")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    after = matrices(tmp_path / "out")
    found = peer.get_submodule("model.layers.1.mlp.down_proj").weight
    assert np.array_equal(found.detach().float().numpy(), after["down_proj", 1].astype(np.float32))


def test_with_the_pretrained_model_entries_go_beyond_the_base(files, tmp_path):
    asked = settings(files, RECOMMENDED, pretrained=str(files / "pretrained"), beta=1.5)
    record = realign_files(asked, tmp_path / "out")
    folders = (files / "tuned", files / "instruct", files / "pretrained", tmp_path / "out")
    before, base, start, after = map(matrices, folders)
    for one, mask in masks(tmp_path / "out").items():
        reference = base[one] + np.float32(1.5) * (base[one] - start[one])
        np.testing.assert_allclose(after[one], np.where(mask, reference, before[one]), rtol=1e-6, atol=1e-7)
        assert np.array_equal(after[one][~mask], before[one][~mask])
    assert record["weights"]["direction"] > record["weights"]["update"] > 0
    assert all(0 <= entry["taken"] <= 1 for entry in record["modules"])
    assert "safety direction taken" in (tmp_path / "out" / "report.html").read_text()
    found = verify(tmp_path / "out", recompute=True)
    assert (found.changed, found.missing) == ((), ())


@pytest.mark.parametrize("method", ["magnitude", "wanda", "low_rank"])
def test_the_other_scores_choose_by_the_update(files, tmp_path, method):
    asked = settings(
        files, RECOMMENDED, pretrained=str(files / "pretrained"), method=method, granularity="tensor", sparsity=0.8
    )
    realign_files(asked, tmp_path / "out")
    base, start = matrices(files / "instruct"), matrices(files / "pretrained")
    for one, mask in masks(tmp_path / "out").items():
        assert np.count_nonzero(mask) == round(0.2 * mask.size)
        if method == "magnitude":
            size = np.abs(base[one] - start[one])
            assert size[mask].min() >= size[~mask].max()


def test_modules_are_chosen_by_the_rule(files, tmp_path):
    record = realign_files(settings(files, rule="layers", layers=(1,)), tmp_path / "out")
    before, after = matrices(files / "tuned"), matrices(tmp_path / "out")
    changed = {one for one in before if not np.array_equal(before[one], after[one])}
    assert changed
    assert all(layer == 1 for _, layer in changed)
    assert [m["layer"] for m in record["modules"] if not m["pruned"]] == [1] * 7
    asked = settings(
        files,
        RECOMMENDED,
        pretrained=str(files / "pretrained"),
        rule="least_similar",
        share=0.5,
        method="magnitude",
    )
    record = realign_files(asked, tmp_path / "half")
    repaired = [m["similarity"] for m in record["modules"] if not m["pruned"]]
    alone = [m["similarity"] for m in record["modules"] if m["pruned"]]
    assert len(repaired) == 7
    assert max(repaired) <= min(alone)


def test_as_an_adapter_of_full_rank_it_is_the_model(files, tmp_path):
    from nlsr_jax.adapter import delta

    realign_files(settings(files), tmp_path / "model")
    record = realign_files(settings(files, as_adapter=32), tmp_path / "adapter")
    base, after = matrices(files / "instruct"), matrices(tmp_path / "model")
    for module, product in delta(nlsr_jax.load_adapter(tmp_path / "adapter")).items():
        for layer, one in enumerate(product):
            np.testing.assert_allclose(base[module, layer] + one, after[module, layer], atol=1e-6)
    assert record["weights"]["adapter"]["highest_residual"] < 1e-5
    low = realign_files(settings(files, as_adapter=2), tmp_path / "low")["weights"]["adapter"]
    adapter = nlsr_jax.load_adapter(tmp_path / "low")
    left = after["v_proj", 0] - base["v_proj", 0]
    error = np.linalg.norm(left - np.asarray(delta(adapter)["v_proj"][0])) / np.linalg.norm(left)
    np.testing.assert_allclose(low["residual"]["v_proj"][0], error, rtol=1e-4)


def test_a_run_can_be_repeated_from_its_record_and_its_masks(files, tmp_path):
    record = realign_files(settings(files), tmp_path / "out")
    again = realign_files(settings(files), tmp_path / "again", recorded=record["inputs"])
    given = settings(files, masks=str(tmp_path / "out"), calibration=None)
    third = realign_files(given, tmp_path / "third")
    digests = {one["outputs"]["model.safetensors"] for one in (record, again, third)}
    assert len(digests) == 1
    assert third["identification"]["method"] == "gain"
    with pytest.raises(InputError, match="is not the one of the record"):
        realign_files(
            settings(files, finetuned=str(files / "sharded")), tmp_path / "other", recorded=record["inputs"]
        )


def test_only_an_own_output_is_replaced(files, tmp_path):
    realign_files(settings(files), tmp_path / "out")
    with pytest.raises(InputError, match="output exists"):
        realign_files(settings(files), tmp_path / "out")
    realign_files(settings(files), tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "model.safetensors").write_bytes((files / "tuned" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"model.safetensors is not what the run"):
        realign_files(settings(files), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": None}, "base is missing; give the aligned model"),
        ({"calibration": None}, "calibration is missing"),
        ({"beta": 1.0}, "no pretrained says in which direction"),
        ({"method": "low_rank"}, "scores the entries of the reference's update, which are zero"),
        ({"method": "snip"}, "method snip is for adapters"),
        ({"rule": "probability"}, "rule probability compares updates"),
        ({"aligned": "x"}, "aligned is given, and .* is a full model"),
        ({"space": "product"}, "space is product, and concerns adapters"),
        ({"rule": "layers", "layers": (5,)}, "layers has 5; .* has layers 0 to 1"),
    ],
)
def test_what_is_refused(files, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        realign_files(settings(files, **changes), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_belong_together_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="there is nothing to repair"):
        realign_files(settings(files, finetuned=str(files / "instruct")), tmp_path / "out")
    exchanged = settings(files, RECOMMENDED, base=str(files / "pretrained"), pretrained=str(files / "instruct"))
    with pytest.raises(InputError, match="exchange the two"):
        realign_files(exchanged, tmp_path / "out")
    save_base(tmp_path / "stranger", seed=5)
    with pytest.raises(InputError, match="was not trained from this model"):
        realign_files(settings(files, base=str(tmp_path / "stranger")), tmp_path / "out")
    save_base(tmp_path / "deeper", layers=3)
    with pytest.raises(InputError, match=r"has 2 layers of q_proj .* has 3 layers of q_proj"):
        realign_files(settings(files, base=str(tmp_path / "deeper")), tmp_path / "out")


def test_damaged_shards_are_refused(files, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(files / "sharded", folder)
    shard = folder / "model-00002-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"00002-of-00003.safetensors: not a whole safetensors file"):
        realign_files(settings(files, finetuned=str(folder)), tmp_path / "out")
    tensors = load_file(files / "sharded" / shard.name)
    name = next(n for n in tensors if "_proj" in n)
    tensors[name][0, 0] = np.inf
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(InputError, match="holds 1 entries that are NaN or infinite"):
        realign_files(settings(files, finetuned=str(folder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "methods"), [("phi3", ["gain"]), ("mixtral", ["gain"])])
def test_fused_projections_and_experts_are_repaired(tmp_path, family, methods):
    save_peer(family, tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    moved(tmp_path / "base", tmp_path / "pretrained", 1, 0.05, only="")
    moved(tmp_path / "base", tmp_path / "tuned", 2, 0.05, only="")
    save_rows(tmp_path / "rows.jsonl", 4)
    paths = {"base": tmp_path / "base", "finetuned": tmp_path / "tuned", "calibration": tmp_path / "rows.jsonl"}
    paths = {name: str(path) for name, path in paths.items()}
    alone = Settings(**paths, **dataclasses.asdict(RECOMMENDED_ALONE))
    wanda = Settings(**paths, pretrained=str(tmp_path / "pretrained"), method="wanda", rule="all", beta=0.5)
    for name in methods:
        record = realign_files(alone if name == "gain" else wanda, tmp_path / name, draw=lambda _: {})
        config = nlsr_jax.load_model(tmp_path / name)[0].config
        assert {entry["module"] for entry in record["modules"]} == set(config.modules())
        carried = {file for file in record["weights"]["carried"]["changed"] if "norm" not in file}
        assert all("embed" in file or "lm_head" in file or ".gate.weight" in file for file in carried)
    before, base, after = (matrices(tmp_path / name) for name in ("tuned", "base", "gain"))
    for one, mask in masks(tmp_path / "gain").items():
        assert np.array_equal(after[one], np.where(mask, base[one], before[one])), one
        assert mask.any() or "experts" in one[0], one


def test_a_full_model_by_its_name_on_the_hub(files, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    put_into_cache(tmp_path / "cache", "someone/tuned", files / "tuned")
    record = realign_files(settings(files, finetuned="someone/tuned@main"), tmp_path / "out")
    direct = realign_files(settings(files), tmp_path / "direct")
    assert record["outputs"]["model.safetensors"] == direct["outputs"]["model.safetensors"]
    assert record["inputs"]["finetuned"]["files"] == direct["inputs"]["finetuned"]["files"]
    assert commit_of("someone/tuned") in record["inputs"]["finetuned"]["path"]
    with pytest.raises(InputError, match="the hub cannot give it"):
        realign_files(settings(files, finetuned="someone/other"), tmp_path / "none")
