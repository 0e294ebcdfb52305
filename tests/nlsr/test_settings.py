"""Settings are written once: fields, flags, checks and records say the same."""

import dataclasses
import math

import pytest
from absl import flags

import nlsr_jax
from nlsr_jax.commands import method_flags
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.setting_checks import check_fields
from nlsr_jax.nlsr.settings import (
    PUBLISHED,
    RECOMMENDED,
    RECOMMENDED_ALONE,
    RECOMMENDED_LINEAGE,
    RECOMMENDED_MODEL,
    RECOMMENDED_MODEL_ALONE,
    MethodSettings,
    preset,
)
from nlsr_jax.pipeline.settings import COMPUTING, Settings
from nlsr_jax.report import words

RECORD = (
    "base aligned finetuned weak calibration pretrained direction_rank masks seed beta amplification_space rank "
    "sparsity method granularity base_probability increment rule tau share layers space basis batch_size "
    "max_length template dtype end_token allow_unrelated prompt_field response_field rejected_field "
    "max_rank as_adapter harmless harmless_field stream answers keep keep_field strength"
).split()
"""The fields of the settings in records, since the first of them; new ones come at the end."""


def test_the_settings_of_a_record_keep_names_and_order():
    assert list(dataclasses.asdict(Settings())) == RECORD


def test_pages_leave_out_how_a_run_computed():
    assert words.COMPUTING == COMPUTING


def test_the_settings_of_a_run_are_those_of_the_method():
    method = {name: value for name, value in dataclasses.asdict(Settings()).items() if hasattr(PUBLISHED, name)}
    assert method == dataclasses.asdict(PUBLISHED)
    assert isinstance(Settings(), MethodSettings)


def test_the_presets_are_public_and_depend_on_the_direction_alone():
    assert (nlsr_jax.PUBLISHED, nlsr_jax.RECOMMENDED) == (PUBLISHED, RECOMMENDED)
    assert preset("published", direction=False) == preset("published", direction=True) == PUBLISHED
    assert preset("recommended", direction=True) == RECOMMENDED
    assert preset("recommended", direction=False) == RECOMMENDED_ALONE
    assert preset("recommended", direction=False, aligned=True) == RECOMMENDED_LINEAGE
    assert preset("recommended", direction=True, model=True) == RECOMMENDED_MODEL
    assert preset("recommended", direction=False, model=True) == RECOMMENDED_MODEL_ALONE
    assert (RECOMMENDED_LINEAGE.beta, RECOMMENDED_LINEAGE.basis) == (1.0, "turned")
    assert (RECOMMENDED.beta, RECOMMENDED_ALONE.beta) == (1.0, 0.0)


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_field_has_help(field):
    assert field.metadata["help"].endswith(".")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": math.nan}, "beta is nan; expected a finite number"),
        ({"tau": math.inf}, "tau is inf; expected a finite number"),
        ({"sparsity": 1.0}, "sparsity is 1.0; expected a number between 0 and 1, both excluded"),
        ({"sparsity": math.nan}, "sparsity is nan; expected a number between 0 and 1, both excluded"),
        ({"share": 1.5}, "share is 1.5; expected a number from 0 to 1"),
        ({"rank": 0}, "rank is 0; expected at least 1"),
        ({"max_length": 1}, "max_length is 1; expected at least 2"),
        ({"seed": 2**32}, "seed is 4294967296; expected 0 to 4294967295"),
        ({"method": "x"}, "method is 'x'; expected one of low_rank, wanda,"),
        ({"rule": ""}, "rule is empty; expected one of probability,"),
        ({"prompt_field": ""}, "prompt_field is empty; give the name of a column, or leave it out"),
    ],
)
def test_a_field_says_what_it_can_be(change, message):
    check_fields(Settings())
    with pytest.raises(InputError) as error:
        check_fields(dataclasses.replace(Settings(), **change))
    assert str(error.value).startswith(message)
    assert error.value.with_flags().startswith(f"--{message}")


def test_a_message_inside_another_keeps_its_arguments():
    inner = InputError(f"give {argument('beta')} 0")
    outer = InputError(f"here: {inner.marked}")
    assert (str(outer), outer.with_flags()) == ("here: give beta 0", "here: give --beta 0")
    assert (str(InputError(inner)), InputError(inner).with_flags()) == ("give beta 0", "give --beta 0")


def test_flags_are_made_of_the_fields(monkeypatch):
    values = flags.FlagValues()
    names = method_flags.names_of(Settings)
    assert [name for name in RECORD if name not in names] == ["end_token"]
    for module in (method_flags.flags, method_flags.path_flags.flags):
        monkeypatch.setattr(module, "FLAGS", values)
    defined = {}
    for kind, define in method_flags._DEFINE.items():
        monkeypatch.setitem(
            method_flags._DEFINE, kind, lambda name, *rest, define=define: defined.update({name: (define, *rest)})
        )
    monkeypatch.setitem(method_flags._PLACES, "path", lambda name, *rest: defined.update({name: ("path", *rest)}))
    method_flags.define_flags(Settings, names)
    for field in dataclasses.fields(Settings):
        if field.name in names:
            assert defined[field.name][1:] == (field.default, field.metadata["help"])
    assert [defined[name][0] for name in ("base", "beta", "rank", "layers", "allow_unrelated", "method")] == [
        "path",
        flags.DEFINE_float,
        flags.DEFINE_integer,
        flags.DEFINE_list,
        flags.DEFINE_bool,
        flags.DEFINE_string,
    ]


def test_identification_has_the_flags_that_realign_nothing():
    found = method_flags.names_of(Settings, realigns=False)
    assert {"base", "aligned", "weak", "calibration", "seed", "beta", "sparsity", "dtype"} <= set(found)
    assert not {"finetuned", "masks", "rule", "space", "basis", "allow_unrelated"} & set(found)
