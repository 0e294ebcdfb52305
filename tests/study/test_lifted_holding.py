"""A repair whose share is refined, in a study: what is asked."""

import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.study import lifted_holding
from nlsr_jax.study.case import Aligned, Case, calibration_rows
from nlsr_jax.study.situations import lineage_of
from nlsr_jax.study.workshop import Made, Workshop
from nlsr_jax.sweep.holdings import toy_models
from tests.study.small_study import small_config


class _Seen(Exception):
    """Ends a refinement once its inputs are known."""


def test_prompts_of_the_task_may_be_longer_than_texts_of_the_alignment(monkeypatch):
    models, config, case = toy_models(SHIPPED), small_config(), Case("sst2", 0.05, 0)
    longest, asked = config.sft.training.max_length, []
    draw = type(models.world).task_prompts

    def long_prompts(world, *given):
        found = draw(world, *given)
        return [" ".join([text] * (1 + 2 * longest // len(text.split()))) for text in found]

    def seen(questions, finetuned, *_, row_answers, **__):
        asked.append((questions, finetuned, row_answers))
        raise _Seen

    monkeypatch.setattr(type(models.world), "task_prompts", long_prompts)
    monkeypatch.setattr(lifted_holding, "refine_by_answers", seen)
    monkeypatch.setattr(lifted_holding, "choose_rows", lambda rows, *_: rows)
    workshop = Workshop(models.base, models.world, config, models.alignment, {0.05: 1e-3})
    weak, tuned = (load_adapter(SHIPPED / name) for name in ("sft", "finetuned_sst2"))
    held = lineage_of(workshop, case, Aligned(weak, models.alignment, 0.0), Made(models.base, tuned, 0.0))
    for keeps in (False, True):
        with pytest.raises(_Seen):
            held.refined(1.0, 0.005, keeps=keeps)
    (plain, _, answers), (kept, finetuned, _) = asked
    given = [row.response for row in calibration_rows(models.world, config, case.seed)]
    assert [models.base.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers] == given
    assert not plain.keep
    assert min(map(len, kept.keep)) > longest
    assert len(finetuned.answers_up_to(1, kept.keep[:2])) == 2
