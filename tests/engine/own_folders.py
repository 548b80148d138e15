"""``tools/run_net.py`` under torchrun (``FOLDER ARGUMENTS...``), each rank in a folder of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from octvideo.cli import run  # noqa: E402
from octvideo.cli.run_net import main  # noqa: E402

if __name__ == "__main__":
    here = Path(sys.argv[1]) / os.environ["RANK"]
    here.mkdir(parents=True, exist_ok=True)
    os.chdir(here)
    sys.exit(run(main, sys.argv[2:]))
