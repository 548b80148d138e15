"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

__all__ = ["nonnegative_int", "path_arg", "positive_int", "positive_seconds"]


def positive_int(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def nonnegative_int(text: str) -> int:
    """An argument that is a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must be at least 0")
    return value


def path_arg(text: str) -> Path:
    """An argument that is a path; Path("") would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def positive_seconds(text: str) -> float:
    """An argument that is a time above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value
