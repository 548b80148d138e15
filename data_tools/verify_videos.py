#!/usr/bin/env python
"""Decodes every video of a list or a folder wholly, and names those that are broken: ``octvideo check-videos``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run  # noqa: E402
from octvideo.cli.check_videos import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(main))
