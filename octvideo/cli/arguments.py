"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

__all__ = [
    "add_config_arguments",
    "alpha_keys",
    "model_name",
    "nonnegative_int",
    "path_arg",
    "positive_int",
    "positive_number",
    "probability",
    "share",
]


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add ``--cfg`` and KEY VALUE pairs.

    Parse them with ``parse_intermixed_args``: options may stand before and after the pairs.
    """
    parser.add_argument("--cfg", required=required, help="a configuration: path, or bare name below configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")


def alpha_keys(text: str) -> list[str]:
    """Parse ``A`` or ``AxM``, like 0.125x16, into keys and values: low channels in multiples of M, without it of 1."""
    alpha, _, multiple = text.partition("x")
    try:
        return ["OCTAVE.ALPHA", str(float(alpha)), "OCTAVE.MULTIPLE", str(int(multiple or 1))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0.25 or 0.125x16") from None


def model_name(text: str) -> str:
    """Parse the name of a network, see ``octvideo.list_models()``.

    Raises:
        UserError: an unknown name; the message has the nearest ones.
    """
    from octvideo.models.zoo import config_file

    config_file(text)
    return text


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def nonnegative_int(text: str) -> int:
    """Parse a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must be at least 0")
    return value


def path_arg(text: str) -> Path:
    """Parse a path. It must not be empty: Path("") is the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def positive_number(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def probability(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1")
    return value


def share(text: str) -> float:
    """Parse a number above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and below 1")
    return value
