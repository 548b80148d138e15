"""Converts a checkpoint: see `python tools/convert.py --help` and docs/checkpoints.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run
from octvideo.cli.convert import main

if __name__ == "__main__":
    sys.exit(run(main))
