"""Class names: compare those of data with those of weights; handle numbers instead of names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from octvideo.errors import UserError

__all__ = [
    "begin_at_one",
    "check_distinct",
    "classes_of",
    "did_you_mean",
    "extended",
    "in_order",
    "is_number",
    "is_numbered",
    "match",
    "nfc",
    "number_places",
    "outputs_of",
]


def nfc(name: str) -> str:
    """Return the composed Unicode form. macOS decomposes folder names, other systems mostly do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_number(name: str) -> bool:
    """Tell whether a name, or a label in a list, is a non-negative integer."""
    return name.isascii() and name.isdigit()


def is_numbered(names: Sequence[str]) -> bool:
    """Tell whether the names are just the class numbers, as for a list with numbers and no class file."""
    return list(names) == [str(number) for number in range(len(names))]


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names: by number if all are numbers (0, 1, 2, 10), otherwise alphabetically."""
    names = sorted(names)
    return sorted(names, key=int) if all(map(is_number, names)) else names


def number_places(names: Sequence[str]) -> dict[int, int]:
    """Map each number that a list may use as a label to a place in ``names``.

    If all names are numbers, a label is the name of a class; otherwise it is the position, counted from 0. If only
    some names are consecutive numbers, labels that could mean two different classes are left out ::

        hug jump run            0 -> 0, 1 -> 1, 2 -> 2
        0 1 10 2                0 -> 0, 1 -> 1, 10 -> 2, 2 -> 3
        0 1 10 2 ... 9 other    0 -> 0, 1 -> 1, 11 -> 11: the name of class number 2 is 10
    """
    values = {int(name): place for place, name in enumerate(names) if is_number(name)}
    if len(values) == len(names):
        return values
    in_a_row = len(values) > 1 and max(values) - min(values) < len(values) and min(values) < 2
    doubtful = {number for value, place in values.items() if value != place for number in (value, place)}
    doubtful = doubtful if in_a_row else set()
    return {place: place for place in range(len(names)) if place not in doubtful}


def match(names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Find the place of each of ``names`` in ``known``; None if it is not there.

    Unicode forms do not matter, nor do underscores instead of blanks. For numbers see ``number_places`` ::

        names  jump run         known  hug jump run         -> [1, 2]
        names  0 1 2            known  0 1 10 2             -> [0, 1, 3]
        names  0 1 2            known  hug jump run         -> [0, 1, 2]
    """
    if is_numbered(names):
        places = number_places(known)
        return [places.get(number) for number in range(len(names))]
    exact = {nfc(name): place for place, name in enumerate(known)}
    alike = {name.replace("_", " "): place for name, place in exact.items()}
    return [exact.get(nfc(name), alike.get(nfc(name).replace("_", " "))) for name in names]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a hint to append to a message about an unknown name: the nearest known one, or ""."""
    alike = next((other for other in known if other.casefold() == name.casefold()), None)
    if alike is not None:
        return f'; it differs from "{alike}" only in capitals.'
    near = get_close_matches(name, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def check_distinct(names: Iterable[str], source: str, *, capitals: bool = True) -> None:
    """Raise UserError if two names look alike: other Unicode forms, or other capitals."""
    composed: dict[str, str] = {}
    folded: dict[str, str] = {}
    for name in names:
        if nfc(name) in composed:
            raise UserError(f"{source}: duplicate class {nfc(name)!r}, in two Unicode forms; merge the two")
        composed[nfc(name)] = name
        other = folded.setdefault(nfc(name).casefold(), name)
        if capitals and other != name:
            raise UserError(
                f"{source}: classes {other!r} and {name!r} differ only in capitals; merge them, or list both "
                "names in a file and set DATA.CLASSES to it"
            )


def begin_at_one(labels: np.ndarray, count: int) -> bool:
    """Tell whether labels count from 1: with ``count`` classes none is 0 and the largest is ``count``."""
    known = labels[labels >= 0]
    return bool(len(known)) and known.min() >= 1 and known.max() == count


def outputs_of(payload: Any) -> int:
    """Return the number of classes in a checkpoint's configuration; 0 if it has none."""
    text = payload.get("config") if isinstance(payload, Mapping) else None
    if not isinstance(text, str):
        return 0
    try:
        return int(CfgNode.load_cfg(text).MODEL.NUM_CLASSES)
    except Exception:  # a caller that needs the configuration reads it and reports errors
        return 0


def classes_of(payload: Any, path: str | Path) -> list[str]:
    """Return the class names of a checkpoint, one per output of its network; [] if it has no names.

    Raises:
        UserError: they are not names, or there are more names than outputs.
    """
    names = payload.get("classes") if isinstance(payload, Mapping) else None
    if not names:
        return []
    if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}: its classes are not a list of names; remove or correct that entry")
    return extended(names, outputs_of(payload) or len(names), str(path))


def extended(names: Sequence[str], outputs: int, source: str) -> list[str]:
    """Return names for all outputs of a network. In older checkpoints some have no name and get their number.

    Raises:
        UserError: there are more names than outputs.
    """
    if len(names) > outputs:
        raise UserError(
            f"{source}: the class names do not fit MODEL.NUM_CLASSES: {len(names)} names for {outputs} outputs; "
            "check --cfg"
        )
    taken = set(names)
    rest = (str(number) if str(number) not in taken else f"output {number}" for number in range(len(names), outputs))
    return [*names, *rest]
