#!/usr/bin/env python
"""Write docs/configuration.md and docs/command_line.md from the keys and the parsers: ``python docs/reference.py``."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from octvideo.cli.main import COMMANDS  # noqa: E402
from octvideo.config.defaults import KEYS  # noqa: E402
from octvideo.config.keys import Key  # noqa: E402

GROUPS = {
    "": "Run",
    "MODEL": "Network",
    "MODEL.SLOWFAST": "SlowFast",
    "OCTAVE": "Octave convolution",
    "DATA": "Data",
    "TRAIN": "Training",
    "SOLVER": "Optimizer",
    "TEST": "Testing",
}
MOST_CHOICES = 8  # of a key, in the table
# Commands with further parsers: heading, arguments.
FORMS = {
    "submit": {"octvideo submit": [], "octvideo submit -- COMMAND": ["--"]},
    "visualize": {
        f"octvideo visualize {what}": [what] for what in ("clip", "curves", "compare", "cam", "features", "mistakes")
    },
}
SCRIPTS = {
    "kinetics_download.py": "data_tools.kinetics.download",
    "kinetics_prepare.py": "data_tools.kinetics.prepare",
    "make_lists.py": "data_tools.lists.make_lists",
    "make_shards.py": "data_tools.shards.make_shards",
    "make_sample_dataset.py": "data_tools.sample_set.make_sample_dataset",
}


def configuration() -> str:
    """Return the page of the configuration keys."""
    lines = [
        "# Configuration",
        "",
        "A configuration is a YAML file, such as those below `configs/`. With `_BASE_` it changes another file.",
        "Set keys in the file, or as `KEY VALUE` pairs after a command.",
        "An unknown key or an invalid value is an error.",
        "Each run writes its complete configuration to `OUTPUT_DIR/config.yaml`.",
        "",
        "```console",
        "$ octvideo complexity --cfg oct_i3d_k400.yaml \\",
        "    OCTAVE.ALPHA 0.25 DATA.NUM_FRAMES 16",
        "one clip of 16 x 224 x 224, alpha 0.25",
        "params_m                  28.043",
        "gflops                    44.204",
        "gflops_with_pooling       44.328",
        "activations_m            138.085",
        "```",
        "",
        "`python docs/reference.py` writes this page from `octvideo/config/defaults.py`.",
        "",
    ]
    for group, heading in GROUPS.items():
        rows = [(name, key) for name, key in KEYS.items() if name.rpartition(".")[0] == group]
        lines += [f"## {heading}", "| key | default | valid | meaning |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {_value(key.default)} | {_valid(key)} | {_text(key.comment)} |" for name, key in rows]
        for name, key in rows:
            if len(key.choices) > MOST_CHOICES:
                lines += ["", f"`{name}` is one of {_choices(key)}."]
        lines += [""]
    return "\n".join(lines[:-1]) + "\n"


def _choices(key: Key) -> str:
    return ", ".join(f"`{choice}`" for choice in key.choices)


def _value(value: Any) -> str:
    return "" if value == "" else f"`{value}`"


def _valid(key: Key) -> str:
    if key.choices:
        return _choices(key) if len(key.choices) <= MOST_CHOICES else "a name below the table"
    bounds = key.bounds.replace(f"{2**63 - 1:g}", "2^63 - 1").replace("[]", "`[]`")
    return {bool: "`True`, `False`", str: "text"}.get(type(key.default)) or bounds or "see meaning"


def _text(text: str) -> str:
    """Return a comment in Markdown: pages become links; names of keys and options are code."""
    text = re.sub(r"([|*<])", r"\\\1", text).replace("[]", "`[]`")
    text = re.sub(
        r"(?<![`\w-])(--[a-z][a-z-]+|(?:[A-Z]+\.)?[A-Z]+_[A-Z_]+|(?:DATA|TRAIN|TEST|OCTAVE)\.[A-Z]+)", r"`\1`", text
    )
    return re.sub(r"docs/(\w+)\.md", lambda found: f"[{found[1].replace('_', ' ')}]({found[1]}.md)", text)


def command_line() -> str:
    """Return the page of the commands."""
    lines = [
        "# Command line",
        "",
        "`octvideo --help` lists the commands, `octvideo COMMAND --help` the options of one. Without installing, use",
        "`python -m octvideo` in a clone. The scripts in `tools/` and `demo/` are the same commands.",
        "",
        "Exit codes: 0 if all went well; 2 after an error that you can fix, with one line on stderr; 130 after Ctrl-C.",
        "`KEY VALUE` pairs change [configuration keys](configuration.md).",
        "",
        "`python docs/reference.py` writes this page from the parsers.",
        "",
        "| command | |",
        "|---|---|",
        *(f"| [`{name}`](#octvideo-{name}) | {_text(text)} |" for name, text in COMMANDS.items()),
        "",
    ]
    for name in COMMANDS:
        module = f"octvideo.cli.{name.replace('-', '_')}"
        if name == "visualize":
            lines += ["## octvideo visualize", "Each form writes one picture or video, and prints its path.", ""]
        for heading, arguments in FORMS.get(name, {f"octvideo {name}": []}).items():
            lines += _section(heading, parser_of(module, arguments), level=3 if name == "visualize" else 2)
    lines += ["## Scripts for data", "They need a clone: `python data_tools/NAME.py`.", ""]
    for name, module in SCRIPTS.items():
        lines += _section(f"data_tools/{name}", parser_of(module, []), level=3)
    return "\n".join(lines[:-1]) + "\n"


def parser_of(module: str, arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser that ``--help`` of a command prints."""
    found: list[argparse.ArgumentParser] = []
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", lambda parser, file=None: found.append(parser)),
        contextlib.suppress(SystemExit),
    ):
        import_module(module).main([*arguments, "--help"])
    return found[0]


def _section(heading: str, parser: argparse.ArgumentParser, level: int) -> list[str]:
    title = f"{'#' * level} {heading}"
    first, _, rest = (parser.description or "").partition("\n\n")
    first = " ".join(first.split())
    lines = [title, f"{first[:1].upper()}{_text(first[1:])}".rstrip(".") + ".", ""]
    if rest:
        lines += ["```text", rest.strip(), "```", ""]
    if rows := list(_rows(parser)):
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    if parser.epilog and parser.formatter_class is argparse.RawDescriptionHelpFormatter:
        lines += ["```text", parser.epilog.strip(), "```", ""]
    elif parser.epilog:
        lines += [f"{_text(' '.join(parser.epilog.split())).rstrip('.')}.", ""]
    return lines


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        names = action.option_strings or [""]
        value = _metavar(action)
        shown = ", ".join(" ".join(part for part in (name, value) if part) for name in names)
        values = {name: value for name, value in vars(action).items() if name not in ("container", "help")}
        text = _text(" ".join(((action.help or "") % {**values, "prog": parser.prog}).split()))
        if action.option_strings and action.required:
            text = f"required; {text}" if text else "required"
        yield f"| `{shown.replace('|', chr(92) + '|')}` | {text} |"


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices is not None and action.metavar is None:
        name = f"{{{','.join(map(str, action.choices))}}}"
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), str(name))


PAGES = {"configuration.md": configuration, "command_line.md": command_line}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
