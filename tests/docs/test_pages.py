"""The pages of the documentation: their commands and Python blocks run, their links lead somewhere."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import doc_pages
import pytest
from doc_pages import DOCS, ROOT, Command

from data_tools.sample_set.clips import render
from data_tools.sample_set.make_sample_dataset import plan
from octvideo.cli.main import COMMANDS
from octvideo.config.defaults import KEYS

PAGES = doc_pages.pages()
RUN = ("console", "python")
SHOWN = ("sh", "text", "yaml", "json", "csv", "bibtex")
CLASSES = ("jumping_jack", "kick", "squat", "wave")
LINKED = ("benchmarks", "configs", "data_tools", "demo", "examples", "hubconf.py", "tools")
OTHERS = {"DATA.PATH_PREFIX"}  # keys of PySlowFast
SECONDS = 500  # of one command, on a machine that is busy
# An address that refuses: a page that needs the internet fails, wherever the tests run.
OFFLINE = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "HTTP", "HTTPS")}


def _runs(path: Path) -> bool:
    return any(block.language in RUN for block in doc_pages.blocks(path))


@pytest.fixture(scope="session")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of every page: two clips, four class folders of eight videos, and two lists of these."""
    folder = tmp_path_factory.mktemp("fixtures")
    for name in ("jack", "unknown"):
        shutil.copy(ROOT / "octvideo" / "assets" / f"example_{name}.mp4", folder / f"{name}.mp4")
    (folder / "jack.mp4").rename(folder / "clip.mp4")
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for place, clip in plan(train_per_class=6, val_per_class=2, size=80, frames=40, seed=0).items():
        split, name = place.split("/", 1)
        if clip.action in CLASSES:
            (folder / "clips" / clip.action).mkdir(parents=True, exist_ok=True)
            render(clip, folder / "clips" / name)
            lists[split].append(f"clips/{name} {clip.action}\n")
    for split, lines in lists.items():
        (folder / f"{split}.csv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`python` and `octvideo` are those of the tests; no network, no GPU and no weights of the user."""
    programs = tmp_path_factory.mktemp("programs")
    for name, command in (("python", ""), ("octvideo", " -m octvideo")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        (programs / name).chmod(0o755)
    more = {"PYTHONPATH": str(ROOT), "TORCH_HOME": str(tmp_path_factory.mktemp("torch")), "CUDA_VISIBLE_DEVICES": ""}
    threads = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "PYTHONFAULTHANDLER": "1", "no_proxy": "127.0.0.1,localhost"}
    return {**os.environ, **more, **threads, **OFFLINE, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def folder(fixtures: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of one page."""
    target = tmp_path / "page"
    shutil.copytree(fixtures, target)
    for name in LINKED:
        (target / name).symlink_to(ROOT / name)
    yield target


def _run(command: list[str], where: str, folder: Path, environment: dict[str, str]) -> str:
    """Return what the command prints. What hangs says where, and is ended with all that it started.

    The output goes to a file: the end of a pipe would come with the last of these processes.
    """
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ending = f"exit code {process.wait(SECONDS)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER: they write their stacks
            time.sleep(5)
            ending = f"not done after {SECONDS} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        file.seek(0)
        output = file.read().decode().replace("\r", "\n")
    assert ending == "exit code 0", f"{where}: {ending}\n{output[-6000:]}"
    return output


def _missing(command: Command, output: str) -> list[str]:
    """The lines that the page shows and the command does not print; lines with figures differ between machines."""
    printed = " ".join(output.split())
    shown = (" ".join(line.split()) for line in command.output)
    return [line for line in shown if line and not re.search(r"\d|\.\.\.|…", line) and line not in printed]


def _running() -> list[object]:
    """The pages with blocks that run; in `make test` README.md, the guides and the pages with Python blocks."""
    quick = {"README.md", *(f"docs/{name}.md" for name in doc_pages.toctrees()["Guides"])}
    quick |= {name for name, path in PAGES.items() if doc_pages.python_source(path)}
    full = pytest.mark.full
    return [pytest.param(name, marks=() if name in quick else full) for name, path in PAGES.items() if _runs(path)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", _running())
def test_page_runs(name: str, folder: Path, environment: dict[str, str]) -> None:
    for command in doc_pages.commands(PAGES[name]):
        where = f"{name}:{command.line}: {command.text}"
        output = _run(["bash", "-euo", "pipefail", "-c", command.text], where, folder, environment)
        missing = _missing(command, output)
        assert not missing, f"{where}\nthe page shows {missing}, and the command prints\n{output[-3000:]}"
    if source := doc_pages.python_source(PAGES[name]):
        (folder / ".page.py").write_text(source, encoding="utf-8")
        code = f"exec(compile(open('.page.py', encoding='utf-8').read(), {str(PAGES[name])!r}, 'exec'))"
        _run(["python", "-c", code], f"the Python blocks of {name}", folder, environment)


def test_every_guide_has_a_block_that_runs() -> None:
    guides = doc_pages.toctrees()["Guides"]
    assert guides and [name for name in guides if not _runs(DOCS / f"{name}.md")] == []


def test_every_block_has_a_known_language() -> None:
    known = {*RUN, *SHOWN}
    wrong = [
        f"{name}:{block.line}: {block.language!r}"
        for name, path in PAGES.items()
        for block in doc_pages.blocks(path)
        if block.language not in known and not block.language.startswith("{")
    ]
    assert wrong == []


def test_index_has_every_page() -> None:
    listed = [name for tree in doc_pages.toctrees().values() for name in tree]
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")
    pages = [link for link in doc_pages.links(DOCS / "index.md") if link.endswith(".md")]
    assert pages == [f"{name}.md" for name in listed]


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_exist(name: str) -> None:
    wrong = []
    for link in doc_pages.links(PAGES[name]):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (PAGES[name].parent / file).resolve() if file else PAGES[name]
        if not target.exists() or anchor and anchor not in doc_pages.anchors(target):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_scripts_commands_and_keys_exist(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    scripts = set(re.findall(r"(?<![\w/])(?:tools|demo|benchmarks|data_tools|examples)/[a-z]\w*\.(?:py|ipynb)\b", text))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    assert set(re.findall(r"(?:`|^|\$ |-- )octvideo ([a-z][a-z-]+)", text, re.MULTILINE)) <= set(COMMANDS)
    keys = set(re.findall(r"\b(?:MODEL|OCTAVE|DATA|TRAIN|SOLVER|TEST)\.[A-Z][A-Z0-9_.]*[A-Z0-9]\b", text))
    assert keys - set(KEYS) - {key.rpartition(".")[0] for key in KEYS} - OTHERS == set()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^|\$ )make ([\w-]+)", text, re.MULTILINE)) <= targets
