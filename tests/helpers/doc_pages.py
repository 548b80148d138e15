"""Read the pages of the documentation: code blocks, commands with their output, links and anchors."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCED = re.compile(r"^( *)(```+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)


class Block(NamedTuple):
    """A code block; ``line`` is the number of its first line in the page."""

    language: str
    text: str
    line: int


class Command(NamedTuple):
    """A command of a console block, the lines that the page shows below it, and its line in the page."""

    text: str
    output: tuple[str, ...]
    line: int


def pages() -> dict[str, Path]:
    """Return README.md, CONTRIBUTING.md and the pages of docs/ by their names below the root."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path for path in found}


def blocks(path: Path) -> list[Block]:
    """Return the code blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(found[3].strip(), textwrap.dedent(found[4]), text.count("\n", 0, found.start(4)) + 1)
        for found in _FENCED.finditer(text)
    ]


def commands(path: Path) -> list[Command]:
    """Return the commands of the console blocks of a page, in order."""
    return [command for block in blocks(path) if block.language == "console" for command in _commands(block)]


def _commands(block: Block) -> list[Command]:
    found: list[tuple[list[str], list[str], int]] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if found and found[-1][0][-1].endswith("\\"):
            found[-1][0].append(line)
        elif line.startswith("$ "):
            found.append(([line[2:]], [], number))
        else:
            assert found, f"line {number} of a console block: the first line must begin with '$ '"
            found[-1][1].append(line)
    return [Command("\n".join(words), tuple(output), number) for words, output, number in found]


def python_source(path: Path) -> str:
    """Return the Python blocks of a page, each on the lines where the page has it."""
    lines: list[str] = []
    for block in blocks(path):
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines)


def prose(path: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    """Return where the links and pictures of a page lead to."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path)))


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(prose(path)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {name for slug, last in found.items() for name in (slug, *(f"{slug}-{n}" for n in range(1, last + 1)))}


def toctrees() -> dict[str, list[str]]:
    """Return the pages of docs/index.md, by the caption of their tree."""
    trees = {}
    for block in blocks(DOCS / "index.md"):
        if block.language == "{toctree}":
            caption = re.search(r"^:caption: (.*)$", block.text, re.MULTILINE)
            assert caption, f"docs/index.md:{block.line}: a tree without a caption"
            trees[caption[1]] = [line for line in block.text.split() if re.fullmatch(r"[a-z_]+", line)]
    return trees
