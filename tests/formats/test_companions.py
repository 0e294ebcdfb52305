"""The files beside an adapter: what is carried byte for byte, and what never is."""

import hashlib

import pytest

from nlsr_jax.files.limits import Limits
from nlsr_jax.formats.companions import card_fields, copy_companions, find_companions
from tests.hub_cache import put_into_cache

CARRIED = (
    "LICENSE",
    "added_tokens.json",
    "additional_chat_templates/tools.jinja",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "training_args.yaml",
    "vocab.json",
)
LEFT_OUT = {
    ".hidden.json": "of another kind",
    "adapter_model.bin": "a pickle",
    "loss.png": "of another kind",
    "model.safetensors": "weights",
    "optimizer.pt": "a pickle",
    "pytorch_model.bin.index.json": "of a checkpoint",
    "rng_state_0.pth": "a pickle",
    "scaler.json": "of a checkpoint",
    "script.py": "of another kind",
    "trainer_state.json": "of a checkpoint",
    "training_args.bin": "a pickle",
}
OURS = ("adapter_config.json", "adapter_model.safetensors", "realignment.json", "report.html", "masks.safetensors")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "customer"
    for name in (*CARRIED, *LEFT_OUT, *OURS, "README.md", "checkpoint-7/tokenizer.json", "checkpoint/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}\r\n")
    return folder


def test_what_is_carried(folder, tmp_path):
    found = find_companions(folder)
    assert [one.name for one in found.carried] == sorted((*CARRIED, "README.customer.md"))
    assert found.left_out == LEFT_OUT
    (tmp_path / "out").mkdir()
    digests = copy_companions(found, tmp_path / "out")
    for one in found.carried:
        data = (tmp_path / "out" / one.name).read_bytes()
        assert data == one.source.read_bytes()
        assert digests[one.name] == hashlib.sha256(data).hexdigest()
    there = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert there == set(digests)
    assert found.describe()["files"]["README.customer.md"] == "README.md"


def test_a_folder_that_was_repaired_before_loses_no_card(folder):
    (folder / "README.customer.md").write_text("the first")
    described = find_companions(folder).describe()["files"]
    assert described["README.customer.md"] == "README.customer.md"
    assert described["README.customer.2.md"] == "README.md"


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (folder / "notes.json").symlink_to(tmp_path / "secret.json")
    (folder / "own.json").symlink_to("vocab.json")
    found = find_companions(folder)
    assert found.left_out["notes.json"] == "a link out of the folder"
    assert "own.json" in found.describe()["files"]


def test_a_snapshot_of_the_hub(folder, tmp_path):
    """Every file of one is a link into the store of the cache."""
    snapshot = put_into_cache(tmp_path / "cache", "someone/x", folder)
    assert find_companions(snapshot).describe() == find_companions(folder).describe()


def test_limits(folder, monkeypatch):
    (folder / "big.txt").write_bytes(b"x" * 101)
    monkeypatch.setattr("nlsr_jax.formats.companions.LIMITS", Limits(companion_bytes=100, companions_bytes=200))
    found = find_companions(folder)
    assert found.left_out["big.txt"] == "of 101 bytes, more than 100"
    assert "more files than are carried" in found.left_out.values()
    assert sum(one.source.stat().st_size for one in found.carried) <= 200


@pytest.mark.parametrize(
    ("front", "fields"),
    [
        ("license: apache-2.0\nbase_model: x/y\n", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: own\nlicense_link: LICENSE\n",
            {"license": "other", "license_name": "own", "license_link": "LICENSE"},
        ),
        ("license: [a, b]\n", {}),
        ('license: "x: y"\n', {}),
        ("", {}),
    ],
)
def test_the_licence_of_the_customers_card(folder, front, fields):
    (folder / "README.md").write_text(f"---\n{front}---\n# Card\nlicense: none\n")
    assert card_fields(find_companions(folder)) == fields


def test_a_card_without_front_matter_has_no_licence(folder):
    (folder / "README.md").write_bytes(b"\xff\xfe# Card\nlicense: mit\n")
    assert card_fields(find_companions(folder)) == {}
    (folder / "README.md").unlink()
    assert card_fields(find_companions(folder)) == {}
