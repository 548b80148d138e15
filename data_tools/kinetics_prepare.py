#!/usr/bin/env python
"""Scales and re-encodes the clips of Kinetics."""

import runpy
from pathlib import Path

if __name__ == "__main__":  # a spawned process imports this file
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "bootstrap.py"))
    bootstrap["start"]("data_tools.kinetics.prepare")
