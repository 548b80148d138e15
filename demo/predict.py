"""Predicts actions in videos: see `python demo/predict.py --help` and docs/inference.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run
from octvideo.cli.predict import main

if __name__ == "__main__":
    sys.exit(run(main))
