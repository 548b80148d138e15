#!/usr/bin/env python
"""Parameters, multiply-adds and activations of a configuration, or a table of the paper."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run  # noqa: E402
from octvideo.cli.complexity import main  # noqa: E402

if __name__ == "__main__":  # a process that is spawned imports this file
    sys.exit(run(main))
