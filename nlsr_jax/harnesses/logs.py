"""What the logs of lm-evaluation-harness and inspect_ai say, as rows of the tables of this project.

A row has the columns of every table (``method``, ``task``, ``poison_ratio``, ``seed``, ``hs``, ``fa``,
``over_refusal``, ``seconds``), and those of ``COLUMNS`` for one metric of one task of a log.
"""

import datetime
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import is_number
from nlsr_jax.files.json_files import read_json
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import expand, is_folder

SCORES = ("hs", "fa", "over_refusal")
COLUMNS = ("harness", "model", "metric", "filter", "value", "stderr", "rows")
"""``value`` and ``stderr`` are as the log has them, ``rows`` is the number of items."""
ACCURACIES = ("accuracy", "acc", "exact_match")
"""Metrics that are shares of items, and stand in a column of scores in per cent."""
_NAMES = ("results*.json", "*.eval")
_HEADER = "header.json"
_INSPECT = "inspect_ai"


def read_logs(
    paths: Iterable[str | os.PathLike], *, method: str | None = None, column: str = "fa"
) -> list[dict[str, Any]]:
    """Read logs into rows.

    Args:
      paths: ``results_*.json`` of lm-evaluation-harness, ``.eval`` or ``.json`` logs of inspect_ai, or folders that
        hold them.
      method: name for the column ``method``; None for the last part of the adapter's path, or of the model's.
      column: the column of scores, one of ``SCORES``, that receives the accuracy of a task: ``fa`` where an item
        counts if it is right, ``hs`` where it counts if it is harmful.

    Returns:
      One row per log, task and metric, in order. Of several accuracies of a task the first alone is a score.

    Raises:
      InputError: a file that is not such a log or has no results, or a column that is unknown.
    """
    if column not in SCORES:
        raise InputError(f"column is {column!r}; expected one of {', '.join(SCORES)}")
    files = [file for path in paths for file in _files(expand(path))]
    return [row for file in files for row in _scored(_read(file), method, column)]


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if not is_folder(path):
        return [path]
    found = sorted({file for name in _NAMES for file in path.rglob(name)})
    if not found:
        raise InputError(f"{path}: holds neither {' nor '.join(_NAMES)}; name the logs themselves")
    return found


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return what a log says, without the columns that follow from it."""
    log = _read_zipped(path) if path.suffix == ".eval" else read_json(path, "log", allow_nan=True)
    try:
        if "eval" in log:
            return [*_rows_of_inspect(log, path)]
        if "lm_eval_version" in log or "n-samples" in log:
            return [*_rows_of_lm_eval(log)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not laid out as a log of a harness ({error})") from error
    raise InputError(f"{path}: not a log of lm-evaluation-harness or inspect_ai")


def _read_zipped(path: pathlib.Path) -> Any:
    """Return the head of a zipped log; Python before 3.14 needs inspect_ai for its compression."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.getinfo(_HEADER).file_size > LIMITS.json_bytes:
                raise InputError(f"{path}: {_HEADER} has more than {LIMITS.json_bytes} bytes (NLSR_MAX_JSON_BYTES)")
            return json.loads(file.read(_HEADER))
    except NotImplementedError:
        from inspect_ai.log import read_eval_log

        return read_eval_log(str(path), header_only=True).model_dump(mode="json")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a log") from error
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a zipped log of inspect_ai ({error})") from error


def _rows_of_lm_eval(log: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    config, counts = log["config"], log.get("n-samples") or {}
    model = (
        config.get("adapter") or config.get("base") or _argument(config.get("model_args")) or config.get("model")
    )
    for task, metrics in log["results"].items():
        for name, value in metrics.items():
            metric, comma, kept = name.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_finite(value):
                continue
            yield {
                "task": task,
                "seed": config.get("random_seed"),
                "seconds": _number(log.get("total_evaluation_time_seconds")),
                "harness": f"lm_eval {log.get('lm_eval_version')}",
                "model": model,
                "metric": metric,
                "filter": kept,
                "value": value,
                "stderr": _number(metrics.get(f"{metric}_stderr,{kept}")),
                "rows": (counts.get(task) or {}).get("effective"),
            }


def _argument(given: Any) -> str | None:
    """Return the model of other back ends: their argument ``peft`` or ``pretrained``."""
    if isinstance(given, str):
        given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    return next((given[name] for name in ("peft", "pretrained") if given.get(name)), None) if given else None


def _rows_of_inspect(log: Mapping[str, Any], path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if log.get("status") != "success":
        raise InputError(f"{path}: the evaluation has the status {log.get('status')!r}; expected 'success'")
    about, results, stats = log["eval"], log["results"], log.get("stats") or {}
    config = about.get("model_generate_config") or {}
    packages = about.get("packages") or {}
    for score in results.get("scores") or ():
        metrics = score.get("metrics") or {}
        for name, metric in metrics.items():
            if name == "stderr" or not _is_finite(metric.get("value")):
                continue
            yield {
                "task": about.get("task"),
                "seed": config.get("seed"),
                "seconds": _elapsed(stats.get("started_at"), stats.get("completed_at")),
                "harness": f"{_INSPECT} {packages.get(_INSPECT, '')}".strip(),
                "model": str(about.get("model")).partition("/")[2],
                "metric": name,
                "filter": score.get("name"),
                "value": metric["value"],
                "stderr": _number((metrics.get("stderr") or {}).get("value")) if name in ACCURACIES else None,
                "rows": score.get("scored_samples", results.get("completed_samples")),
            }


def _scored(rows: Iterable[dict[str, Any]], method: str | None, column: str) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns of every table; the first accuracy of a task goes into a column of scores."""
    seen = set()
    for row in rows:
        scores = dict.fromkeys(SCORES)
        if row["metric"] in ACCURACIES and row["task"] not in seen:
            seen.add(row["task"])
            scores[column] = 100 * row["value"]
        name = method or pathlib.PurePath(str(row["model"])).name
        first = {"method": name, "task": row["task"], "poison_ratio": None, "seed": row["seed"]}
        yield {**first, **scores, "seconds": row["seconds"], **{name: row[name] for name in COLUMNS}}


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _number(value: Any) -> float | None:
    """Return a number, which the harness may write as a text; None for what is no finite one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _elapsed(started: Any, completed: Any) -> float | None:
    try:
        begin, end = (datetime.datetime.fromisoformat(text) for text in (started, completed))
    except (TypeError, ValueError):
        return None
    return (end - begin).total_seconds()
