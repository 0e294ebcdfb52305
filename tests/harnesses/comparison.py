"""One model in lm-evaluation-harness twice: as ``nlsr``, and as ``hf`` with PEFT on transformers."""

import numpy as np


def evaluate(model, folder, names, **options):
    """Return results and samples of a model on the tasks of a folder."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **options)


def both(base, adapter, folder, names, *, batch_size=8, **options):
    """Return the results of ``nlsr`` and of ``hf``.

    The cache of ``hf`` stays off: where a context is another one with the beginning of its continuation, lm_eval
    0.4.13 scores the one by the other's first position.
    """
    from lm_eval.models.huggingface import HFLM

    from nlsr_jax.harnesses.lm_eval import NlsrLM

    adapter = None if adapter is None else str(adapter)
    ours = NlsrLM(str(base), adapter, batch_size=batch_size)
    theirs = HFLM(str(base), peft=adapter, device="cpu", dtype="float32", batch_size=batch_size, logits_cache=False)
    return [evaluate(model, folder, names, **options) for model in (ours, theirs)]


def differing(ours, theirs, task, metric):
    """Return the numbers of the items whose score differs, and how many there are."""
    pairs = zip(ours["samples"][task], theirs["samples"][task], strict=True)
    different = [number for number, (one, other) in enumerate(pairs) if one[metric] != other[metric]]
    return different, len(ours["samples"][task])


def likelihoods(found, task):
    """Return all log-likelihoods of a task, in order."""
    answers = [answer for row in found["samples"][task] for some in row["resps"] for answer in some]
    return np.array([answer[0] if isinstance(answer, tuple) else answer for answer in answers])


def answers(found, task):
    """Return the generated texts of a task."""
    return [row["resps"][0][0] for row in found["samples"][task]]
