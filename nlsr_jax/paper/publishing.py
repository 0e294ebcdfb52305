"""Write the files of tables and figures, and the page that gathers them."""

import csv
import importlib.resources
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlsr_jax.files.output import check_free_file, whole_file, write_text
from nlsr_jax.files.ownership import check_own, foreign_file, json_with, nothing_foreign, text_with
from nlsr_jax.files.paths import exists, expand
from nlsr_jax.paper import generations, results
from nlsr_jax.paper.figures import Figure
from nlsr_jax.paper.generations import Generations
from nlsr_jax.paper.results import Part, Result
from nlsr_jax.paper.tables import Table
from nlsr_jax.report import svg
from nlsr_jax.report.story import NAMES, Example

PAGE, TABLES, FIGURES = "index.html", "tables", "figures"
_TITLE = "<title>The paper's tables and figures, "
_DOTS = 160  # per inch of a PNG


def check_places(folder: str | os.PathLike, *, tables: Sequence[int] = (), figures: Sequence[int] = ()) -> None:
    """Check in advance that tables, figures and page will not overwrite foreign files.

    Args:
      folder: folder of all tables and figures.
      tables, figures: their numbers.

    Raises:
      InputError: if a foreign file is in the way; the message names it.
    """
    folder = expand(folder)
    for number in tables:
        _check_own(folder / TABLES, f"table_{number}", (".json", ".md", ".csv"))
    for number in figures:
        _check_own(folder / FIGURES, f"figure_{number}", (".json", ".svg", ".png"))
    check_free_file(folder / PAGE, True, foreign=text_with(_TITLE))


def publish_table(folder: str | os.PathLike, table: Table, found: Sequence[Result], seeds: Sequence[int]) -> str:
    """Write ``tables/table_N`` as Markdown, CSV and JSON.

    Args:
      folder: folder of all tables and figures.
      table: the table.
      found: its results.
      seeds: the seeds averaged over.

    Returns:
      The Markdown.
    """
    text = results.markdown(table, found, seeds)
    page = {
        "number": table.number,
        "title": table.title,
        "note": results.note(table, found, seeds),
        "parts": [part._asdict() for part in results.parts(table, found)],
        "verdict": results.describe_frontier(table, found),
    }
    files = {".json": _dump(page), ".md": text, ".csv": results.comma_separated(table, found)}
    _write(expand(folder) / TABLES, f"table_{table.number}", files)
    return text


def publish_part(folder: str | os.PathLike, number: int, title: str, note: str, part: Part) -> str:
    """Write a single-part table as Markdown, CSV and JSON; return the Markdown."""
    text = f"## Table {number}. {title}\n\n{note}\n\n{results.grid(part)}"
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([part.head, *part.lines])
    page = {"number": number, "title": title, "note": note, "parts": [part._asdict()]}
    _write(
        expand(folder) / TABLES,
        f"table_{number}",
        {".json": _dump(page), ".md": text, ".csv": file.getvalue()},
    )
    return text


def publish_generations(folder: str | os.PathLike, table: Generations, examples: list[Example]) -> str:
    """Write a table of generations as Markdown, CSV and JSON; return the Markdown."""
    chosen = generations.of_kind(table, examples)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "kind", "question", "model", "answer", "verdict"])
    page: dict[str, Any] = {"number": table.number, "title": table.title, "note": table.note, "examples": []}
    for example in chosen:
        answers = []
        for answer in example.answers:
            name = NAMES[answer.method]
            writer.writerow([table.number, example.kind, example.question, name, answer.text, answer.verdict])
            answers.append({"model": name, "text": answer.text, "verdict": answer.verdict})
        page["examples"].append({"kind": example.kind, "prompt": example.question, "answers": answers})
    text = generations.markdown(table, examples)
    files = {".json": _dump(page), ".md": text, ".csv": file.getvalue()}
    _write(expand(folder) / TABLES, f"table_{table.number}", files)
    return text


def publish_figure(
    folder: str | os.PathLike, figure: Figure, data: Mapping[str, Any], seeds: Sequence[int]
) -> pathlib.Path:
    """Draw a figure and write ``figures/figure_N`` as SVG and PNG, with its data and caption as JSON.

    Args:
      folder: folder of all tables and figures.
      figure: the figure.
      data: data from its ``gather``.
      seeds: the seeds averaged over.

    Returns:
      The PNG's path.
    """
    caption = figure.caption.format(seeds=", ".join(map(str, seeds)))
    place = expand(folder) / FIGURES
    name = f"figure_{figure.number}"
    with svg.drawing():
        drawn = figure.draw(data)
        text = svg.to_svg(drawn, f"figure{figure.number}", figure.title)
        picture = io.BytesIO()
        drawn.savefig(picture, format="png", dpi=_DOTS, facecolor="white", metadata={"Software": None})
    page = {"number": figure.number, "title": figure.title, "caption": caption, "data": data}
    _write(place, name, {".json": _dump(page), ".svg": text + "\n", ".png": picture.getvalue()})
    return place / f"{name}.png"


def publish_page(folder: str | os.PathLike, world: str) -> pathlib.Path:
    """Write the page of all tables and figures in the folder.

    Args:
      folder: folder of all tables and figures.
      world: description of the world they were made on.

    Returns:
      Path of the page.
    """
    import jinja2

    folder = expand(folder)
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in (folder / TABLES).glob("table_*.json")]
    figures = [json.loads(file.read_text(encoding="utf-8")) for file in (folder / FIGURES).glob("figure_*.json")]
    for figure in figures:
        figure["svg"] = (folder / FIGURES / f"figure_{figure['number']}.svg").read_text(encoding="utf-8")
    tables.sort(key=lambda table: table["number"])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    files = importlib.resources.files("nlsr_jax.report")
    template = environment.from_string((files / "laboratory.html").read_text(encoding="utf-8"))
    text = template.render(
        world=world,
        style=(files / "style.css").read_text(encoding="utf-8"),
        tables=[table for table in tables if "parts" in table],
        examples=[table for table in tables if "examples" in table],
        figures=sorted(figures, key=lambda figure: figure["number"]),
    )
    with whole_file(folder / PAGE, overwrite=True, foreign=text_with(_TITLE)) as file:
        write_text(file, text)
    return folder / PAGE


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _check_own(folder: pathlib.Path, name: str, endings: Iterable[str]) -> None:
    page = folder / f"{name}.json"
    known = exists(page) and json_with("number", "title")(page) is None
    for ending in endings:
        if exists(folder / f"{name}{ending}"):
            check_own(folder / f"{name}{ending}", nothing_foreign if known else foreign_file)


def _write(folder: pathlib.Path, name: str, files: Mapping[str, str | bytes]) -> None:
    """Write the files of a table or figure, replacing earlier ones; the JSON file marks them as ours.

    Raises:
      InputError: if a foreign file is in the way, or a file cannot be written.
    """
    _check_own(folder, name, files)
    folder.mkdir(parents=True, exist_ok=True)
    for ending, content in files.items():
        with whole_file(folder / f"{name}{ending}", overwrite=True, foreign=nothing_foreign) as file:
            if isinstance(content, str):
                write_text(file, content)
            else:
                pathlib.Path(file).write_bytes(content)
