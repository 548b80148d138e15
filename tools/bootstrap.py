"""Makes scripts use the packages of the clone that they are in, whether these are installed or not."""

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def start(module: str) -> NoReturn:
    """Run ``main`` of a module as a command, and exit with its code."""
    run = import_module("octvideo.cli").run
    sys.exit(run(lambda arguments: import_module(module).main(arguments)))
