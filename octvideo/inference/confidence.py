"""Tell clips that show a class of the network from clips that show none.

A network trained with a class ``other`` has learned what none of its classes looks like. ``other`` is never an answer:
the answer is the best of the remaining classes, its probability is the *confidence*, and below a threshold the answer
is "not sure" ::

    bend   walk   other
    0.70   0.10   0.20     confidence 0.70: bend
    0.25   0.05   0.70     confidence 0.25: not sure (closest: bend)

The threshold comes from clips that the network has not seen in training. It is in the checkpoint, as ``confidence``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["KEEP", "OTHER", "answers", "calibrate"]

OTHER = "other"
KEEP = 0.97  # share of the clips of known classes that the threshold leaves sure
REJECT = 0.99  # share of the other clips that decides how far below the threshold they are


def answers(classes: Sequence[str]) -> list[int]:
    """Return the places of the classes that can be an answer: all but ``other``."""
    return [place for place, name in enumerate(classes) if name != OTHER] or list(range(len(classes)))


def calibrate(known: Sequence[float], other: Sequence[float] = (), *, keep: float = KEEP) -> dict[str, Any]:
    """Return a threshold, and what it does to the clips that it was measured on.

    Args:
        known: confidences of clips that show a class of the network and that training has not seen, for example
            ``scores[:, answers(classes)].max(1)``.
        other: confidences of clips that show none of them. If ``REJECT`` of these are below the threshold that ``keep``
            gives, it moves halfway to them: more of ``known`` stay.
        keep: at least this share of ``known`` is at or above the threshold.

    Returns:
        ``threshold``; ``known`` and ``other``, the numbers of clips; ``known_sure`` and ``other_sure``, of how many of
        them the network is sure.

    Raises:
        ValueError: ``known`` is empty.
    """
    if not known:
        raise ValueError("no confidences to calibrate on")
    worst = sorted(float(value) for value in known)[math.floor((1 - keep) * len(known) + 1e-9)]
    if other:
        highest = sorted(float(value) for value in other)[math.ceil(REJECT * len(other)) - 1]
        worst = min(worst, (worst + highest) / 2)
    threshold = math.floor(1e4 * worst) / 1e4
    return {
        "threshold": threshold,
        "known": len(known),
        "known_sure": sum(value >= threshold for value in known),
        "other": len(other),
        "other_sure": sum(value >= threshold for value in other),
    }
