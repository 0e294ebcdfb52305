"""A run whose share of entries is refined by what the repaired model answers."""

import contextlib
import dataclasses
import io
import json

import jax
import numpy as np
import pytest

import nlsr_jax
from benchmarks.fleet_world import save_instruct
from nlsr_jax.calibration import loss, refinement
from nlsr_jax.calibration.refinement import Bounds
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.data.toy_rows import safe_rows
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.nlsr.settings import PUBLISHED, RECOMMENDED_ALONE, RECOMMENDED_LINEAGE
from nlsr_jax.nlsr.update import factor_update
from nlsr_jax.pipeline import Stages, answering, realign_files, refining
from nlsr_jax.pipeline.choosing import Refinement
from nlsr_jax.pipeline.settings import Settings, from_record
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.pipeline.verification import verify
from nlsr_jax.study.toy import ToyWorld


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The shipped calibration rows, as few as do, and harmless prompts of the toy world."""
    folder = tmp_path_factory.mktemp("rows")
    text = (SHIPPED / "calibration.jsonl").read_text(encoding="utf-8")
    (folder / "calibration.jsonl").write_text("".join(text.splitlines(keepends=True)[:40]), encoding="utf-8")
    world = ToyWorld()
    asked = world._rendered(safe_rows(jax.random.key(5), world.world, 20, 1.0))
    lines = [json.dumps({"prompt": row.prompt}) + "\n" for row in asked]
    (folder / "harmless.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def settings(rows, defaults=RECOMMENDED_LINEAGE, **changes):
    paths = {
        "base": SHIPPED / "base",
        "aligned": SHIPPED / "dpo",
        "weak": SHIPPED / "sft",
        "finetuned": SHIPPED / "finetuned_sst2",
        "calibration": rows / "calibration.jsonl",
        "harmless": rows / "harmless.jsonl",
    }
    return Settings(**{name: str(path) for name, path in paths.items()} | dataclasses.asdict(defaults) | changes)


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    """The output folder of a refined run, its record, and what it printed on standard error."""
    folder = tmp_path_factory.mktemp("refined") / "out"
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        record = realign_files(settings(rows, answers="own"), folder, refine=True, stages=Stages())
    return folder, record, printed.getvalue()


def test_the_share_is_the_smallest_that_refuses(run):
    _, record, _ = run
    found = record["refinement"]
    assert found["finetuned"]["harmful"] < 0.5 < found["aligned"]["harmful"]
    trials = {one["share"]: one for one in found["trials"]}
    chosen = trials[found["share"]]
    assert found["reached"]
    assert chosen["harmful"] >= 0.99
    ceiling = max(found["finetuned"]["harmless"], found["aligned"]["harmless"]) + found["bounds"]["harmless"]
    assert chosen["harmless"] <= ceiling
    assert any(one["harmful"] < 0.99 for share, one in trials.items() if share < found["share"])
    assert record["settings"]["sparsity"] == 1 - found["share"]
    share = record["summary"]["changed_entries"] / record["summary"]["total_entries"]
    assert share == pytest.approx(found["share"], rel=1e-3)
    assert set(record["inputs"]["harmless"]["files"]) == {"harmless.jsonl"}


def test_without_prompts_of_the_task_the_record_says_nothing_of_them(run):
    found = run[1]["refinement"]
    assert not {"kept", "keep", "held"} & {*found, *found["bounds"], *found["prompts"], *found["finetuned"]}
    assert all(set(one) == {"share", "harmful", "harmless"} for one in found["trials"])
    assert "keep" not in run[1]["inputs"]


def test_answers_to_prompts_of_the_task_bind(rows, tmp_path):
    """Harmful prompts for the task's: every repair answers them otherwise, so that none is made."""
    asked = [json.loads(line)["prompt"] for line in (rows / "calibration.jsonl").read_text().splitlines()]
    lines = [json.dumps({"text": prompt, "label": 5}) + "\n" for prompt in asked]
    (tmp_path / "task.jsonl").write_text("".join(lines), encoding="utf-8")
    given = settings(rows, answers="own", keep=str(tmp_path / "task.jsonl"), keep_field="text")
    record = realign_files(given, tmp_path / "out", refine=True)
    found = record["refinement"]
    assert (found["prompts"]["keep"], found["bounds"]["kept"]) == (40, Bounds().kept)
    assert all(0 <= one["kept"] < 0.9 for one in found["trials"])
    assert (found["share"], found["held"], record["summary"]["changed_entries"]) == (0.0, True, 0)
    assert set(record["inputs"]["keep"]["files"]) == {"task.jsonl"}
    assert any("change more of the task's answers than the bound allows" in text for text in record["warnings"])
    assert "own answers to prompts of its task" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not verify(tmp_path / "out", recompute=True).changed


def test_a_repetition_asks_nothing_and_gives_the_same_bytes(run, rows, tmp_path):
    folder, record, _ = run
    again = realign_files(
        settings(rows, answers="own", sparsity=record["settings"]["sparsity"]),
        tmp_path / "again",
        recorded=record["inputs"],
        refined=record["refinement"],
    )
    assert again["refinement"] == record["refinement"]
    assert "refine" not in again["seconds"]
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert not verify(folder, recompute=True).changed


def foreign_rows(rows, folder):
    """Write calibration rows with answers that no model gives; returns their file."""
    given = [json.loads(line) for line in (rows / "calibration.jsonl").read_text().splitlines()]
    foreign = [{"prompt": row["prompt"], "response": "the film was dull ."} for row in given]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in foreign))
    return str(folder / "rows.jsonl")


def test_own_answers_do_not_depend_on_those_of_the_rows(run, rows, tmp_path):
    """The case of the field: calibration answers that are worded otherwise than the model's refusals."""
    folder, record, _ = run
    asked = settings(rows, calibration=foreign_rows(rows, tmp_path), sparsity=record["settings"]["sparsity"])
    masks, notes, options = {}, {}, {"refined": record["refinement"]}
    for answers in ("rows", "auto"):
        found = realign_files(dataclasses.replace(asked, answers=answers), tmp_path / answers, **options)
        masks[answers] = (tmp_path / answers / "masks.safetensors").read_bytes()
        notes[answers] = [text for text in found["warnings"] if "restores the aligned model's own answers" in text]
    assert masks["auto"] == (folder / "masks.safetensors").read_bytes() != masks["rows"]
    assert [len(notes[name]) for name in ("rows", "auto")] == [0, 1]
    assert found["settings"]["answers"] == "own"  # so that a repetition chooses nothing


def test_rows_are_used_where_the_aligned_model_refuses_nothing(rows, tmp_path, monkeypatch):
    """Although its own answers were chosen: the record, its notes and the masks are those of the rows' answers."""
    monkeypatch.setattr(refinement, "TELLS", 1.1)
    told = realign_files(settings(rows, answers="rows"), tmp_path / "told", refine=True)
    monkeypatch.setattr(answering, "choose_rows", lambda rows, own, losses: own())
    found = realign_files(settings(rows, answers="auto"), tmp_path / "out", refine=True)
    assert found["refinement"]["trials"] == told["refinement"]["trials"] != []
    assert found["refinement"]["share"] is None
    assert found["settings"]["answers"] == "rows"
    assert not any("own answers" in text for text in found["warnings"])
    options = {"recorded": found["inputs"], "refined": found["refinement"]}
    realign_files(settings(rows, answers="rows"), tmp_path / "again", **options)
    for name in ("masks.safetensors", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_guess_of_the_answers_saves_a_pass_and_changes_no_byte(rows, tmp_path, monkeypatch):
    """The first run takes the gradient of the wrong answers, and the second one that of the right."""
    shared, collect, asked = Shared(2), loss.collect_loss, []
    monkeypatch.setattr(loss, "collect_loss", lambda *given: asked.append(1) or collect(*given))
    given = settings(rows, calibration=foreign_rows(rows, tmp_path), answers="auto")
    for name, passes in (("first", 3), ("second", 1)):
        found = realign_files(given, tmp_path / name, refine=True, shared=shared)
        assert found["settings"]["answers"] == shared.guesses["answers"] == "own"
        assert len(asked) == passes
        asked.clear()
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("given", [{"method": "magnitude"}, {"masks": "masks.safetensors"}])
def test_own_answers_need_a_method_that_reads_them(rows, tmp_path, given):
    with pytest.raises(
        InputError, match=r"answers own needs method gain without masks, and .* is given; leave one"
    ):
        realign_files(settings(rows, harmless=None, answers="own", **given), tmp_path / "out")


def test_the_page_shows_what_was_tried(run):
    folder, record, _ = run
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "How the share of entries was chosen" in page
    assert f"{len(record['refinement']['trials'])} repairs" in page


def test_too_few_rows_are_an_error_only_where_a_refinement_is_asked_for(rows, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join((rows / "calibration.jsonl").read_text().splitlines(keepends=True)[:10]))
    given = settings(rows, calibration=str(few))
    with pytest.raises(InputError, match="5 calibration prompts can be asked"):
        realign_files(given, tmp_path / "out", refine=True)
    record = realign_files(given, tmp_path / "out", refine=Refinement(if_possible=True))
    assert "refinement" not in record
    assert record["settings"]["sparsity"] == RECOMMENDED_LINEAGE.sparsity
    assert any("5 calibration prompts can be asked" in text for text in record["warnings"])


def test_a_tokenizer_that_knows_no_english_needs_harmless_prompts(rows, tmp_path):
    with pytest.raises(InputError, match=r"the tokenizer does not know .* give harmless prompts with harmless"):
        realign_files(settings(rows, harmless=None), tmp_path / "out", refine=True)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"method": "magnitude"}, {"refine": True}, "refine refines the share of method gain"),
        ({"masks": "masks.safetensors"}, {"refine": True}, "masks are given together with refine"),
        ({}, {}, "harmless is read only to refine the share"),
        ({"harmless": None, "keep": "task.jsonl"}, {}, "keep is read only to refine the share"),
        (
            {"keep": str(SHIPPED / "calibration.jsonl"), "keep_field": "x"},
            {"refine": True},
            "'x' is missing but keep_field names it",
        ),
        ({"stream": True}, {"refine": True}, "with stream the base is read layer by layer and answers no prompts"),
        ({}, {"refine": True, "automatic": 0.98}, "automatic and refine both choose the sparsity"),
        (
            {"answers": "own", "basis": "as_is", "harmless": None},
            {"automatic": 0.98},
            "answers own is given together with automatic, which uses the answers of the rows",
        ),
    ],
)
def test_what_is_refused(rows, tmp_path, changes, options, message):
    with pytest.raises(InputError, match=message):
        realign_files(settings(rows, **changes), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def fresh(rows, tmp_path_factory):
    """Settings of a run that repairs a customer's adapter on an instruct model, with nothing beside it."""
    folder = tmp_path_factory.mktemp("fresh")
    aligned, tuned = (nlsr_jax.load_adapter(SHIPPED / name) for name in ("dpo", "finetuned_sst2"))
    instruct = save_instruct(folder / "instruct", aligned)
    own = factor_update(tuned, aligned, basis="turned", key=jax.random.key(3))
    save_adapter(own, folder / "adapter", base_model_name_or_path=str(instruct))
    paths = {"base": str(instruct), "finetuned": str(folder / "adapter"), "aligned": None, "weak": None}
    return settings(rows, RECOMMENDED_ALONE, **paths)


def test_a_refined_fresh_adapter_goes_beyond_the_aligned_model(fresh, tmp_path):
    """The search begins at a fifth of the share, 0.45 %, in steps of a thirtieth of a decade."""
    record = realign_files(dataclasses.replace(fresh, sparsity=1 - 0.0225), tmp_path / "out", refine=True)
    found, made = record["refinement"], record["settings"]
    assert (found["reached"], made["strength"], made["sparsity"]) == (True, 2.0, 1 - found["share"])
    tried = [one["share"] for one in found["trials"]]
    assert tried[0] == 0.0046416
    assert set(tried) <= set(refinement.grid(3))
    before, after = nlsr_jax.load_adapter(fresh.finetuned), nlsr_jax.load_adapter(tmp_path / "out")
    changed = 0
    for module, leaf in before.factors.items():
        own, now = leaf["b"], after.factors[module]["b"]
        assert np.array_equal(now, np.where(now == own, own, -own))
        changed += np.count_nonzero(now != own)
    assert changed == record["summary"]["changed_entries"] > 0
    options = {"recorded": record["inputs"], "refined": found}
    realign_files(from_record(made, tmp_path), tmp_path / "again", **options)
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not verify(tmp_path / "out", recompute=True).changed


def test_a_given_strength_is_the_one_of_every_trial(fresh, tmp_path):
    record = realign_files(dataclasses.replace(fresh, strength=1.0), tmp_path / "out", refine=True)
    assert record["settings"]["strength"] == 1.0
    tried = [one["share"] for one in record["refinement"]["trials"]]
    assert tried[0] == 0.0199526
    assert set(tried) <= set(refinement.GRID)


def test_a_fixed_share_has_a_strength_of_1(fresh, tmp_path, monkeypatch):
    """Where prompts cannot refine the share, too: the settings are those of a run that refines nothing."""
    plain = realign_files(dataclasses.replace(fresh, harmless=None), tmp_path / "plain")
    monkeypatch.setattr(refinement, "TELLS", 1.1)
    found = realign_files(fresh, tmp_path / "untold", refine=True)
    assert found["refinement"]["share"] is None
    assert [one["share"] for one in found["refinement"]["trials"]] == [0.0199526]
    for record in (plain, found):
        assert (record["settings"]["strength"], record["settings"]["sparsity"]) == (1.0, 0.98)
    streamed = realign_files(
        dataclasses.replace(fresh, stream=True), tmp_path / "streamed", refine=Refinement(if_possible=True)
    )
    assert (streamed["settings"]["strength"], streamed["settings"]["sparsity"]) == (1.0, 0.98)


def test_the_published_settings_are_not_refined(rows, tmp_path):
    with pytest.raises(InputError, match="refine refines the share of method gain"):
        realign_files(settings(rows, PUBLISHED), tmp_path / "out", refine=True)


def test_progress_is_a_line_a_trial(run):
    folder, record, printed = run
    shown = [line for line in printed.splitlines() if "of the entries: refuses" in line]
    assert len(shown) == len(record["refinement"]["trials"])
    assert nlsr_jax.load_adapter(folder)


def test_the_rows_answers_show_how_a_safe_model_refuses(rows, tmp_path, monkeypatch):
    given = [json.loads(line) for line in (rows / "calibration.jsonl").read_text("utf-8").splitlines()]
    tokenizer, seen = load_tokenizer(SHIPPED / "base"), []
    ask = refining.refine_by_answers
    monkeypatch.setattr(
        refining,
        "refine_by_answers",
        lambda *_, **options: seen.append(options["row_answers"]) or ask(*_, **options),
    )
    realign_files(settings(rows), tmp_path / "out", refine=True)
    (answers,) = seen
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers] == [
        row["response"] for row in given
    ]
