"""The reference pages are what their script writes, and pages name options that exist."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import doc_pages
import pytest
from doc_pages import DOCS

from octvideo.cli.main import COMMANDS

PAGES = doc_pages.pages()


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "command_line.md"])
def test_page_is_up_to_date(reference: ModuleType, name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == reference.PAGES[name](), "run: python docs/reference.py"


def test_every_key_and_command_is_listed(reference: ModuleType) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", reference.configuration(), re.MULTILINE)
    assert sorted(rows) == sorted(reference.KEYS)
    headings = re.findall(r"^## octvideo ([\w-]+)$", reference.command_line(), re.MULTILINE)
    assert set(headings) == set(COMMANDS)


@pytest.fixture(scope="module")
def options(reference: ModuleType) -> dict[str, set[str]]:
    """The options of each command; those of all its forms."""
    found: dict[str, set[str]] = {}
    for name in COMMANDS:
        for arguments in reference.FORMS.get(name, {"": []}).values():
            parser = reference.parser_of(f"octvideo.cli.{name.replace('-', '_')}", arguments)
            found.setdefault(name, {"--help"}).update(parser._option_string_actions)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_options_in_blocks_exist(options: dict[str, set[str]], name: str) -> None:
    blocks = [block for block in doc_pages.blocks(PAGES[name]) if block.language in ("console", "sh", "")]
    text = "\n".join(block.text for block in blocks).replace("\\\n", " ")
    wrong = [
        f"octvideo {command} {option}"
        for command, rest in re.findall(r"\boctvideo ([a-z-]+)([^\n|;&>#]*)", text)
        for part in [rest.split(" -- ")[0]]
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", part)
        if option not in options[command]
    ]
    assert wrong == []
