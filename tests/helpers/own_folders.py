"""Run ``tools/run_net.py`` under torchrun (``FOLDER ARGUMENTS...``), each rank in another folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from octvideo.cli import run
from octvideo.cli.run_net import main

if __name__ == "__main__":
    here = Path(sys.argv[1]) / os.environ["RANK"]
    here.mkdir(parents=True, exist_ok=True)
    os.chdir(here)
    sys.exit(run(main, sys.argv[2:]))
