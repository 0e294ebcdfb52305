"""The documents: commands, messages, names and links that they show exist."""

import ast
import functools
import re

import pytest

import nlsr_jax
from nlsr_jax.commands.console import VERBS
from tests.e2e.command import ROOT, python

AT_ROOT = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ELSEWHERE = {"--help", "--version"}


@functools.cache
def commands():
    """Every ``nlsr VERB …`` in the code of the documents: ``(verb, flags)``."""
    found = []
    for path in [*AT_ROOT, *PAGES]:
        for block in re.findall(r"```\w*\n(.*?)```", path.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [match.groups() for match in (re.search(r"\bnlsr (\w+)(.*)", line) for line in lines) if match]
        found += re.findall(r"`nlsr (\w+)([^`]*)`", path.read_text())
    return [(verb, set(re.findall(r"--\w+", rest))) for verb, rest in found if verb != "VERB"]


def test_the_documents_show_commands():
    assert len(commands()) > 30
    assert {verb for verb, _ in commands()} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_flags_that_are_shown_exist(verb):
    shown = set().union(*(flags for name, flags in commands() if name == verb)) - ELSEWHERE
    text = python("-m", "nlsr_jax", verb, "--helpfull").stdout if shown else ""
    known = {f"--{name}" for name in re.findall(r"--(?:\[no\])?(\w+)", text)}
    assert shown <= known | {f"--no{name[2:]}" for name in known}


def texts(node):
    """What a string of the source prints, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def test_messages_of_the_troubleshooting_page_are_messages():
    source = "\n".join(
        texts(node)
        for path in (ROOT / "nlsr_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )
    shown = re.findall(r"^### `(.*)`$", (ROOT / "docs/guide/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(shown) > 20
    assert [message for message in shown if message not in source] == []


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: nlsr_jax\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(nlsr_jax.__all__)


def anchors(path):
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in found}


@pytest.mark.parametrize("path", [*AT_ROOT, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("path", [*AT_ROOT, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_files_that_are_named_exist(path):
    named = re.findall(r"`([\w/.]+/[a-z_]\w*\.py)`", path.read_text())
    assert [name for name in named if not any((ROOT / top / name).exists() for top in ("", "nlsr_jax"))] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_are_short_and_in_the_navigation(path):
    assert len(path.read_text().splitlines()) <= 250
    assert f": {path.relative_to(ROOT / 'docs')}\n" in (ROOT / "mkdocs.yml").read_text()
