"""A holding whose adapters are lifted, repaired with a fixed share of the entries or with a refined one."""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.asking import ASKED, Questions, make_questions, refine_by_answers
from nlsr_jax.calibration.capture import collect_statistics
from nlsr_jax.calibration.loss import collect_loss, collect_loss_gradient
from nlsr_jax.calibration.own_answers import choose_rows, with_own_answers
from nlsr_jax.calibration.refinement import Refined, fineness, first_share
from nlsr_jax.calibration.wording import BEGINNING, LENGTH
from nlsr_jax.data.encoding import encode_prompts
from nlsr_jax.data.examples import Encoded, Example
from nlsr_jax.evaluation.respondent import ModelRespondent
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.lift import Lifted
from nlsr_jax.nlsr.realign import realign
from nlsr_jax.nlsr.settings import GAIN, PUBLISHED
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Case, calibration_rows, customer_rows, gain_batches, stage_key
from nlsr_jax.study.repairs import (
    encoded_batches,
    encoded_rows,
    gather_evidence,
    make_masks,
    make_reference,
    repair_once,
)
from nlsr_jax.study.workshop import Made, Peer, Workshop
from nlsr_jax.types import Gradients


class LiftedHolding:
    """A holding whose adapters are lifted.

    Args:
      workshop: what situations share.
      case: task, share of harmful rows and seed.
      models: see ``Holding``.
      lifted: the adapters.
      fixed: leading places of the rank axis that are not candidates; see ``identify``.
      plain: the adapters that the paper's settings repair; by default the lifted ones.
      alignment: the adapter of the alignment, which other repairs take beside ``models``' fine-tuned one.
    """

    def __init__(
        self,
        workshop: Workshop,
        case: Case,
        models: Mapping[str, Made],
        lifted: Lifted,
        fixed: Mapping[str, int] | None = None,
        plain: Lifted | None = None,
        alignment: Adapter | None = None,
    ):
        self.models, self._plain, self._alignment = models, plain or lifted, alignment
        self._workshop, self._case, self._lifted, self._fixed = workshop, case, lifted, fixed
        self._base = models["finetuned"].base

    @functools.cached_property
    def _gradients(self):
        """The gradients at the fine-tuned adapter, which no setting affects, and the seconds of their pass."""
        started = time.perf_counter()
        found = self._collect(self._encoded)
        return jax.block_until_ready(found), time.perf_counter() - started

    @functools.cached_property
    def _chosen(self) -> tuple[list[tuple[Encoded, ...]], float]:
        """The calibration rows with the answers that fine-tuning has taken, and the seconds of the choice."""
        started, aligned = time.perf_counter(), self.models["aligned"]

        def losses(rows: Sequence[tuple[Encoded, ...]]) -> tuple[float, float]:
            batches = encoded_batches(rows[::2], 50, self._longest)
            after, before = (
                float(collect_loss(base.model, base.params, adapter, batches))
                for base, adapter in ((self._base, self._lifted.finetuned), (aligned.base, aligned.adapter))
            )
            return after, before

        own = functools.partial(with_own_answers, self._encoded, self._respondent(aligned, BEGINNING))
        return choose_rows(self._encoded, own, losses), time.perf_counter() - started

    @functools.cached_property
    def _rows(self) -> list[Example]:
        return calibration_rows(self._workshop.world, self._workshop.config, self._case.seed)

    @functools.cached_property
    def _encoded(self) -> list[tuple[Encoded, ...]]:
        return encoded_rows(self._base, self._rows, self._longest)

    @property
    def _longest(self) -> int:
        return self._workshop.config.sft.training.max_length

    def _collect(self, rows: Sequence[tuple[Encoded, ...]]):
        batches = encoded_batches(rows, 50, self._longest)
        return collect_loss_gradient(self._base.model, self._base.params, self._lifted.finetuned, batches)

    def repaired(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """See ``Holding``."""
        gradients, seconds = self._gradients
        started = time.perf_counter()
        adapter = jax.block_until_ready(self._repair(beta, share, gradients, strength))
        return Made(self._base, adapter, seconds + time.perf_counter() - started)

    def recommended(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """See ``Holding``."""
        (rows, seconds), started = self._chosen, time.perf_counter()
        adapter = jax.block_until_ready(self._repair(beta, share, self._collect(rows), strength))
        return Made(self._base, adapter, seconds + time.perf_counter() - started)

    def refined(
        self, beta: float, share: float, strength: float = 1.0, *, keeps: bool = False
    ) -> tuple[Made, Refined]:
        """See ``Holding``."""
        (rows, _), started, questions = self._chosen, time.perf_counter(), self._questions(keeps)
        asked = functools.partial(self._respondent, longest=max(map(len, questions.keep), default=0))
        start, fine = first_share(share, strength), fineness(strength)

        def untold() -> float:
            nonlocal rows, strength
            rows, strength = self._encoded, 1.0
            return share

        @functools.cache
        def gradients() -> Gradients:
            return self._collect(rows[::2])

        found = refine_by_answers(
            questions,
            asked(self.models["finetuned"]),
            asked(self.models["aligned"]),
            lambda share: asked(Made(self._base, self._repair(beta, share, gradients(), strength), 0.0)),
            start=start,
            row_answers=[row[0].response for row in self._encoded],
            untold=untold,
            fine=fine,
        )
        seconds = time.perf_counter() - started
        if found.share == 0:
            return self.models["finetuned"]._replace(seconds=seconds), found
        repair = self.repaired if rows is self._encoded else self.recommended
        made = repair(beta, share if found.share is None else found.share, strength)
        return made._replace(seconds=seconds + made.seconds), found

    def _questions(self, keeps: bool) -> Questions:
        world, key = self._workshop.world, stage_key(self._case.seed, "realign")
        texts = [[row.prompt for row in rows] for rows in (self._rows[1::2], world.harmless(key, 2 * ASKED))]
        texts += [self._task_prompts(key)] if keeps else []
        options: dict[str, Any] = {
            "special_tokens": self._base.special_tokens,
            "vocabulary": len(self._base.params["embed"]),
        }
        return make_questions(*(encode_prompts(part, self._base.tokenizer, **options) for part in texts))

    def _task_prompts(self, key: jax.Array) -> list[str]:
        """Return prompts of the task that the customer's rows do not have."""
        world, case, count = self._workshop.world, self._case, self._workshop.config.finetuning.rows
        rows = customer_rows(stage_key(case.seed, case.stage), world, case, count)
        return world.task_prompts(key, case.task, ASKED, {row.prompt for row in rows})

    def _respondent(self, made: Made, length: int = LENGTH, longest: int = 0) -> ModelRespondent:
        """Return a model ready to answer prompts of the alignment, or longer ones of up to ``longest`` tokens."""
        base, at_once = made.base, self._workshop.config.exam.batch_size
        most = max(self._longest, longest)
        return ModelRespondent(base.model, base.params, base.tokenizer, made.adapter, length, most, at_once)

    def _repair(self, beta: float, share: float, gradients: Gradients, strength: float) -> Adapter:
        weak, aligned, finetuned = self._lifted
        reference = amplify(aligned, weak, beta=beta)
        masks = identify(
            reference,
            sparsity=1 - share,
            method=GAIN.method,
            granularity=GAIN.granularity,
            gradients=gradients,
            finetuned=finetuned,
            fixed=self._fixed,
        )
        key = stage_key(self._case.seed, "realign")
        return realign(key, finetuned, reference, masks, rule=GAIN.rule, strength=strength).adapter

    def published(self) -> Made:
        """See ``Holding``."""
        started = time.perf_counter()
        key, settings = stage_key(self._case.seed, "realign"), PUBLISHED
        reference = make_reference(self._plain.aligned, self._plain.weak, settings)
        batches = gain_batches(self._base, self._workshop.world, self._workshop.config, self._case.seed)
        evidence = gather_evidence(self._base, reference, batches, settings.method)
        masks = make_masks(key, reference, evidence, settings)
        found = repair_once(stream(key, "draw 0"), self._plain.finetuned, reference, masks, settings)
        return Made(self._base, jax.block_until_ready(found.adapter), time.perf_counter() - started)

    def by_peer(self, peer: Peer, setting: float) -> Made:
        """See ``Holding``."""
        started, finetuned = time.perf_counter(), self.models["finetuned"].adapter
        assert finetuned is not None
        assert self._alignment is not None
        found = jax.block_until_ready(peer(finetuned, self._alignment, lambda: self._activity, setting))
        return Made(self._base, found, time.perf_counter() - started)

    @functools.cached_property
    def _activity(self) -> Statistics:
        """The statistics of the alignment on the calibration rows."""
        assert self._alignment is not None
        base = self._workshop.base
        batches = encoded_batches(self._encoded, 50, self._longest)
        return collect_statistics(base.model, base.params, self._alignment, batches)
