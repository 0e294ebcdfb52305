"""Item banks on disk: the published pickle is converted without running it, and arrays come back from npz."""

import pathlib
import pickle

import numpy as np
import pytest

from experiments.bank_pickle import read_pickle
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.item_bank import ItemBank, load_banks, save_banks
from tests.e2e.command import python
from tests.evaluation.banks import make_bank


def published(bank: ItemBank) -> dict:
    """A bank in the layout of tinyBenchmarks.pkl."""
    places = {name: np.flatnonzero(bank.scenario == i) for i, name in enumerate(bank.scenarios)}
    parts = {
        name: {
            f"part {p}": items[bank.subscenario[items] == p].tolist() for p in np.unique(bank.subscenario[items])
        }
        for name, items in places.items()
    }
    anchors = bank.scenario[bank.anchors]
    weights = {name: bank.weights[anchors == i] for i, name in enumerate(bank.scenarios)}
    lambdas = {name: bank.lambdas[i] for i, name in enumerate(bank.scenarios)}  # NumPy scalars
    return {
        "lb": {
            "seen_examples": list(bank.anchors),  # NumPy scalars again
            "examples_weights": weights,
            "irt_parameters": {"A": bank.a[None], "B": np.asfortranarray(bank.b[None])},
            "optimal_lambdas": lambdas,
            "scenarios_position": {name: items.tolist() for name, items in places.items()},
            "subscenarios_position": parts,
        }
    }


def write(path: pathlib.Path, tree, protocol=4) -> pathlib.Path:
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


def assert_same(found: ItemBank, bank: ItemBank):
    for name in ("a", "b", "anchors", "weights", "lambdas", "scenario"):
        assert np.array_equal(getattr(found, name), getattr(bank, name)), name
    assert found.scenarios == bank.scenarios
    same = [x.subscenario[:, None] == x.subscenario for x in (found, bank)]
    assert np.array_equal(*same)  # the parts may be numbered anew


@pytest.mark.parametrize("protocol", range(6))
def test_published_layout(tmp_path, protocol):
    bank = make_bank()
    assert_same(read_pickle(write(tmp_path / "t.pkl", published(bank), protocol))["lb"], bank)


def test_lambdas_may_be_at_both_ends(tmp_path):
    bank = make_bank()._replace(lambdas=np.array([0.0, 1.0]))
    assert_same(read_pickle(write(tmp_path / "t.pkl", published(bank)))["lb"], bank)


def test_names_of_older_numpy(tmp_path):
    bank = make_bank()
    data = pickle.dumps(published(bank), 2)
    assert b"numpy._core" in data
    (tmp_path / "t.pkl").write_bytes(data.replace(b"numpy._core", b"numpy.core"))
    assert_same(read_pickle(tmp_path / "t.pkl")["lb"], bank)


def test_kinds_of_arrays(tmp_path):
    """Big-endian and float32 parameters, and positions in arrays of objects."""
    bank = make_bank()
    tree = published(bank)
    part = tree["lb"]
    part["irt_parameters"]["A"] = part["irt_parameters"]["A"].astype(">f8")
    part["examples_weights"] = {n: w.astype(np.float32) for n, w in part["examples_weights"].items()}
    part["seen_examples"] = np.asarray(part["seen_examples"], object)
    found = read_pickle(write(tmp_path / "t.pkl", tree))["lb"]
    assert_same(found._replace(weights=bank.weights), bank)
    np.testing.assert_allclose(found.weights, bank.weights, rtol=1e-6)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


class Evaluates:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_refused_and_not_run(tmp_path, protocol):
    tree = published(make_bank())
    tree["extra"] = Runs(tmp_path / "ran")
    path = write(tmp_path / "t.pkl", tree, protocol)
    with pytest.raises(InputError, match="neither an array, a list nor a dict"):
        read_pickle(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()  # an ordinary reader would have run it


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evaluates()),
        pickle.dumps(np.load),
        b"cnumpy\nload\n.",
        b"c_codecs\ndecode\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cmultiarray\nscalar\n.",
        b"cnumpy\nndarray\n}b.",  # a known name, to be changed
        b"c_codecs\nencode\n(Vab\nVidna\ntR.",
        pickle.dumps(np.zeros(3, [("x", "f4"), ("y", "f4")])),
        pickle.dumps(np.zeros(2, "M8[s]")),
        b"",
        b"not a pickle",
        pickle.dumps(published(make_bank()))[:-200],
    ],
)
def test_other_contents_are_refused(tmp_path, data):
    (tmp_path / "t.pkl").write_bytes(data)
    with pytest.raises(InputError, match="refused or damaged"):
        read_pickle(tmp_path / "t.pkl")


def without(*keys):
    def change(tree):
        *way, last = keys
        node = tree["lb"]
        for key in way:
            node = node[key]
        del node[last]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.update(other=tree.pop("lb")), "lb: not there; the file holds other"),
        (without("irt_parameters"), "irt_parameters"),
        (without("scenarios_position", "scenario 1"), "not laid out|among 1 names"),
        (without("optimal_lambdas", "scenario 0"), "scenario 0"),
        (without("subscenarios_position", "scenario 0", "part 0"), "without a subscenario"),
        (lambda tree: tree["lb"]["seen_examples"].pop(), "not laid out"),
        (lambda tree: tree["lb"]["optimal_lambdas"].update({"scenario 0": 1.5}), "lambdas run from"),
        (lambda tree: tree["lb"]["irt_parameters"].update(A=np.zeros((2, 2))), "shape"),
        (lambda tree: tree["lb"]["irt_parameters"].update(A=np.full((1, 2, 500), np.nan)), "not finite"),
    ],
)
def test_other_layouts_are_refused(tmp_path, change, words):
    tree = published(make_bank())
    change(tree)
    with pytest.raises(InputError, match=words):
        read_pickle(write(tmp_path / "t.pkl", tree))


def test_banks_come_back_from_their_file_in_order(tmp_path):
    banks = {"mmlu": make_bank(seed=1), "lb": make_bank()}
    save_banks(banks, tmp_path / "t.npz")
    found = load_banks(tmp_path / "t.npz")
    assert list(found) == list(banks)
    for name, bank in banks.items():
        assert_same(found[name], bank)


def test_a_file_of_a_former_version_holds_one_bank_without_a_name(tmp_path):
    np.savez(tmp_path / "t.npz", **make_bank()._asdict())
    assert_same(load_banks(tmp_path / "t.npz")[""], make_bank())


def test_the_program_converts_every_part_of_the_pickle(tmp_path):
    banks = {"lb": make_bank(), "mmlu": make_bank(seed=1)}
    tree = {name: published(bank)["lb"] for name, bank in banks.items()}
    write(tmp_path / "t.pkl", {**tree, "other": 3})
    arguments = ["--pickle", tmp_path / "t.pkl", "--output", tmp_path / "t.npz"]
    printed = python("-m", "experiments.convert_item_bank", *arguments).stdout.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["lb", "mmlu"]
    for name, bank in load_banks(tmp_path / "t.npz").items():
        assert_same(bank, banks[name])


@pytest.mark.parametrize("name", ["tinyBenchmarks.pkl", "t.PKL"])
def test_a_pickle_is_not_opened_and_the_message_says_how_to_convert_it(tmp_path, name):
    write(tmp_path / name, Runs(tmp_path / "ran"))
    with pytest.raises(InputError, match=rf"{name}: a pickle, .*-m experiments\.convert_item_bank"):
        load_banks(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_overwritten(tmp_path):
    save_banks({"lb": make_bank()}, tmp_path / "t.npz")
    with pytest.raises(InputError, match="exists"):
        save_banks({"lb": make_bank(seed=1)}, tmp_path / "t.npz")
    assert_same(load_banks(tmp_path / "t.npz")["lb"], make_bank())


@pytest.mark.parametrize("name", ItemBank._fields)
def test_missing_arrays(tmp_path, name):
    arrays = make_bank()._asdict()
    del arrays[name]
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=name):
        load_banks(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("anchors", np.zeros(200, int), "anchors"),
        ("anchors", np.arange(400, 600), "anchors"),
        ("anchors", np.arange(200.0), "anchors has type float64"),
        ("scenario", np.full(500, 7), "among 2 names"),
        ("weights", np.zeros(3), "weights"),
        ("a", np.zeros((2, 3)), "a is"),
        ("a", np.asarray([{}], object), "pickle"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, field, value, words):
    np.savez(tmp_path / "t.npz", **{**make_bank()._asdict(), field: value})
    with pytest.raises(InputError, match=words):
        load_banks(tmp_path / "t.npz")


@pytest.mark.parametrize("data", [None, b"", b"text", pickle.dumps([1])])
def test_files_that_are_no_banks(tmp_path, data):
    if data is not None:
        (tmp_path / "t.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"t\.npz"):
        load_banks(tmp_path / "t.npz")
