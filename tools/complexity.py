#!/usr/bin/env python
"""Counts parameters and multiply-adds, or a table of the paper: ``octvideo complexity``."""

import runpy
from pathlib import Path

if __name__ == "__main__":  # a spawned process imports this file
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "bootstrap.py"))
    bootstrap["start"]("octvideo.cli.complexity")
