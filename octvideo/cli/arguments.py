"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from octvideo.parts import Part

__all__ = [
    "add_config_arguments",
    "alpha_keys",
    "add_part_arguments",
    "core_count",
    "model_name",
    "nonnegative_int",
    "path_arg",
    "positive_int",
    "positive_number",
    "probability",
    "share",
]


def core_count() -> int:
    """Return the number of cores that this process may use: those of its SLURM task, or all."""
    if text := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def add_part_arguments(parser: argparse._ActionsContainer) -> None:
    """Add ``--part`` and ``--merge``, with which several tasks share long work; ``octvideo submit`` passes them."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="do a part of the work, as task I of N; I/N%%M: M of them run at once and share limits",
    )
    group.add_argument("--merge", action="store_true", help="do nothing but merge the results of all parts")


def _part(text: str) -> Part:
    try:
        return Part.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
