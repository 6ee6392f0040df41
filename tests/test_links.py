"""Links of the documents lead to files that are there, and to their headings. The web is not asked."""

import re

import mistune
import pytest

from kvhelpers.paths import REPOSITORY

PLACES = ("*.md", "docs/*.md", "data/*.md", "data/labels/*.md", "data/samples/*.md", "experiments/[0-9]*.md")
DOCUMENTS = sorted(path for place in PLACES for path in REPOSITORY.glob(place))


def nodes(document):
    """Every node of a document's syntax tree, depth first."""
    waiting = list(document)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("children", [])


def parsed(text):
    return list(nodes(mistune.create_markdown(renderer="ast", plugins=["table"])(text)))


def text_of(node):
    return node.get("raw", "") + "".join(map(text_of, node.get("children", [])))


def anchors(text):
    """The names by which GitHub links to a text's headings."""
    headings = [text_of(node) for node in parsed(text) if node["type"] == "heading"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets(text):
    """What a text links to or shows."""
    return [node["attrs"]["url"] for node in parsed(text) if node["type"] in ("link", "image")]


def broken(path, text):
    """The targets of a text, as it stands at a path, that lead nowhere."""
    missing = []
    for url in targets(text):
        if re.match(r"https?://", url):
            continue
        place, _, anchor = url.partition("#")
        target = (path.parent / place).resolve() if place else path
        there = target.exists() and target.is_relative_to(REPOSITORY)
        if not there or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(url)
    return missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(path):
    assert broken(path, path.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_seen():
    text = (
        "[a](nothing.md) ![b](figures/none.png) [c](docs/glossary.md#no-such) [d](#limits) [e](https://x.y)"
    )
    told = broken(REPOSITORY / "README.md", (REPOSITORY / "README.md").read_text() + f"\n\n{text}\n")
    assert sorted(told) == ["docs/glossary.md#no-such", "figures/none.png", "nothing.md"]


def test_every_page_of_docs_is_linked_from_the_readme():
    linked = {url.partition("#")[0] for url in targets((REPOSITORY / "README.md").read_text())}
    assert {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} <= linked
    assert sum(map(len, (targets(path.read_text()) for path in DOCUMENTS))) > 100
