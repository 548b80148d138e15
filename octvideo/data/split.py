"""Split clips into training and validation, by class and by group."""

from __future__ import annotations

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from octvideo.data.collection import Clip, classes_in
from octvideo.errors import UserError

__all__ = ["Suspicion", "split_clips", "suspect_groups"]

_TRIALS = 500  # orders of the groups that are tried


def split_clips(clips: Sequence[Clip], share: float, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """Split clips into those to train on and those to validate on, the same way each time.

    Without groups, each class gives ``share`` of its clips, rounded, at least one and not all. With groups, all clips
    of a group are on one side (those of an unknown group together), every class is on both sides where that is
    possible, and each class gives about ``share``: the best of 500 random orders of the groups.

    Args:
        clips: of at least two clips per class.
        share: of the validation clips, above 0 and below 1.
        seed: of the choice.

    Raises:
        UserError: a class has no clip left to train on, because all of its clips are in one group.
    """
    ordered = sorted(clips)
    held = _held_groups(ordered, share, seed) if any(clip.group for clip in clips) else None
    chosen = {clip for clip in ordered if clip.group in held} if held is not None else _held(ordered, share, seed)
    return [clip for clip in ordered if clip not in chosen], [clip for clip in ordered if clip in chosen]


def _held(clips: Sequence[Clip], share: float, seed: int) -> set[Clip]:
    chosen: set[Clip] = set()
    for name, count in classes_in(clips).items():
        own = [clip for clip in clips if clip.label == name]
        number = min(max(1, round(share * count)), count - 1)
        chosen.update(random.Random(f"{seed} {name}").sample(own, number))
    return chosen


def _held_groups(clips: Sequence[Clip], share: float, seed: int) -> set[str]:
    """Return the groups to validate on."""
    totals = classes_in(clips)
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        members[clip.group][clip.label] += 1
    for name in totals:
        groups = [group for group, labels in members.items() if name in labels]
        if len(groups) == 1:
            raise UserError(
                f"class {name!r}: all of its clips are of the group {groups[0]!r}, so it cannot be both trained and "
                "validated; add clips of another group, or leave out --group-by"
            )
    best: tuple[float, set[str]] | None = None
    for trial in range(_TRIALS):
        order = sorted(members)
        random.Random(f"{seed} {trial}").shuffle(order)
        held, counts = set[str](), Counter[str]()
        for group in order:
            more = counts + members[group]
            if any(more[name] >= totals[name] for name in members[group]):
                continue  # a class would have nothing left to train on
            if held and abs(more.total() - share * len(clips)) > abs(counts.total() - share * len(clips)):
                continue
            held.add(group)
            counts = more
        cost = sum(abs(counts[name] / total - share) + (not counts[name]) for name, total in totals.items())
        cost -= 0.1 * len(held) / len(members)  # many groups tell more than few
        if best is None or cost < best[0]:
            best = cost, held
    assert best is not None
    return best[1]


class Suspicion(NamedTuple):
    """Groups that file names seem to have.

    Attributes:
        pattern: for ``--group-by``.
        names: some of the groups.
        number: of groups.
    """

    pattern: str
    names: list[str]
    number: int


def suspect_groups(clips: Sequence[Clip]) -> Suspicion | None:
    """Find a part of the file names that several clips share, and that does not tell the class.

    Clips of one person, source or scene look alike. If some of them are trained on and others validated, the accuracy
    is too high ::

        daria_bend.avi daria_run.avi denis_bend.avi         daria, denis
        v_Run_g01_c01.avi v_Run_g01_c02.avi v_Run_g02_c01   g01, g02
        run_01.avi run_02.avi bend_01.avi                   none: a number per clip

    Returns:
        The first such part; None where there is none.
    """
    parts = [_parts(clip.path) for clip in clips]
    if len({len(row) for row in parts}) != 1:  # names of another form each have their own beginning alone
        parts = [row[:1] if len(row) > 1 else [] for row in parts]
    for place, column in enumerate(zip(*parts)):
        counts = Counter(column)
        if _tells_groups(column, [clip.label for clip in clips], counts):
            before = r"(?:[^_\-. ]+[_\-. ]+)" + f"{{{place}}}" if place else ""
            names = sorted(counts, key=lambda name: (-counts[name], name))
            return Suspicion(f"^{before}([^_\\-. ]+)", names[:3], len(counts))
    return None


def _tells_groups(column: Sequence[str], labels: Sequence[str], counts: Counter[str]) -> bool:
    if not 2 <= len(counts) <= len(column) / 2:
        return False  # all alike, or nearly a name per clip
    pairs = Counter(zip(column, labels))
    classes = defaultdict(set)
    for value, label in pairs:
        classes[value].add(label)
    if all(len(found) == 1 for found in classes.values()) and len(counts) <= len(set(labels)):
        return False  # the class again
    is_number_of_clip = max(pairs.values()) == 1 and all(value.isdigit() for value in counts)
    return not is_number_of_clip


def _parts(path: str) -> list[str]:
    return list(_words(os.path.splitext(os.path.basename(path))[0]))


def _words(name: str) -> Iterator[str]:
    return (word for word in re.split(r"[_\-. ]+", name) if word)
