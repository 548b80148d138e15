#!/usr/bin/env python
"""Writes the lists of a data set from its official files."""

import runpy
from pathlib import Path

if __name__ == "__main__":  # a spawned process imports this file
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools" / "bootstrap.py"))
    bootstrap["start"]("data_tools.lists.make_lists")
