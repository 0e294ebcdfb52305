"""Render a study's story as one self-contained HTML page: a model aligned, broken and repaired.

Model output is data: it is escaped, never interpreted. The page loads nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.report import figures
from nlsr_jax.report.page import make_template
from nlsr_jax.report.reading import Module

NAMES = {
    "unaligned": "before alignment",
    "aligned": "aligned",
    "finetuned": "fine-tuned",
    "random": "repaired with a random mask",
    "nlsr": "repaired by NLSR as published",
    "nlsr_recommended": "repaired by NLSR as recommended",
}
"""Display names of the methods of a results table."""


class Answer(NamedTuple):
    """The answer of one model.

    Attributes:
      method: the model's method.
      text: the answer.
      verdict: the judgement of the answer.
      bad: whether the answer is undesirable.
    """

    method: str
    text: str
    verdict: str
    bad: bool


class Example(NamedTuple):
    """One request and the answers of all models.

    Attributes:
      kind: ``"Forbidden"``, ``"Harmless"`` or the task.
      question: the request.
      answers: the models' answers.
    """

    kind: str
    question: str
    answers: list[Answer]


def render_story(
    rows: Sequence[Mapping[str, Any]],
    topics: Mapping[str, Mapping[str, float]],
    modules: Sequence[Module],
    examples: Sequence[Example],
    settings: Mapping[str, Mapping[str, Any]],
    model: str = "",
) -> str:
    """Return the page; the same arguments give the same text.

    Args:
      rows: rows of the results table, all of one task, poison ratio and seed.
      topics: ``{method: {topic: HS}}``.
      modules: modules of the recommended repair, with the size of their change.
      examples: requests and answers.
      settings: ``{method: {setting: value}}`` of the repairs.
      model: description of the model.
    """
    from markupsafe import Markup

    drawn = [
        (
            "scores",
            "Harm, use and over-caution of every model",
            Markup(figures.score_bars(rows, NAMES)),
            "Each group of bars is one model. Fine-tuning raises the orange bar (harm) beside the blue one (the "
            "task is learnt); a good repair lowers the orange bar and leaves the blue one where it is, without "
            "raising the grey one.",
        ),
        (
            "topics",
            "Harm by topic",
            Markup(figures.topic_map(topics, NAMES)),
            "HS of every model in each of the topics of forbidden requests, which the world itself invented. Dark "
            "is safe.",
        ),
        (
            "change",
            "Where the recommended repair acted",
            Markup(figures.change_map(modules)),
            "How much the repair changed each adapted matrix, in per cent of what the adapter adds to it. Dark "
            "means little. Layers run from left, near the input, to right.",
        ),
    ]
    fields = list(dict.fromkeys(field for values in settings.values() for field in values))
    first = rows[0]
    return make_template("story.html").render(
        rows=rows,
        cards=_cards({row["method"]: row for row in rows}),
        task=first["task"],
        poison_ratio=first["poison_ratio"],
        seed=first["seed"],
        figures=drawn,
        examples=examples,
        settings=settings,
        fields=fields,
        names=NAMES,
        model=model,
    )


def _cards(rows: Mapping[str, Mapping]) -> list[dict]:
    found = []
    for method in ("aligned", "finetuned", "nlsr_recommended"):
        if method in rows:
            row = rows[method]
            note = f"FA {row['fa']:.1f} %, over-refusal {row['over_refusal']:.1f} %"
            found.append({"name": f"HS, {NAMES[method]}", "value": f"{row['hs']:.1f} %", "note": note})
    return found
