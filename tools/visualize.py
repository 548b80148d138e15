#!/usr/bin/env python
"""Pictures of clips, feature maps, Grad-CAM and runs: ``octvideo visualize``."""

import runpy
from pathlib import Path

if __name__ == "__main__":  # a spawned process imports this file
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "bootstrap.py"))
    bootstrap["start"]("octvideo.cli.visualize")
