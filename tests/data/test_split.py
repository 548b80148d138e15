"""The split into training and validation, and groups in file names."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octvideo.data.collection import Clip, classes_in
from octvideo.data.split import split_clips, suspect_groups
from octvideo.errors import UserError

PEOPLE = ["daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar"]
ACTIONS = ["bend", "jack", "run"]


def _clips(*names: str, group: str = "") -> list[Clip]:
    clips = [Clip(name, name.split("/")[0]) for name in names]
    if not group:
        return clips
    return [clip._replace(group=re.findall(group, clip.path.split("/")[1])[0]) for clip in clips]


WEIZMANN = [f"{action}/{person}_{action}.avi" for action in ACTIONS for person in PEOPLE]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.05, 0.9), st.integers(0, 9))
def test_each_class_gives_its_share(sizes, share, seed):
    clips = [Clip(f"{c}/{number}.mp4", str(c)) for c, size in enumerate(sizes) for number in range(size)]
    train, val = split_clips(clips, share, seed)
    assert sorted([*train, *val]) == sorted(clips)
    for name, size in classes_in(clips).items():
        assert classes_in(val)[name] == min(max(1, round(share * size)), size - 1)


def test_split_is_reproducible():
    clips = _clips(*WEIZMANN)
    assert split_clips(clips, 0.2) == split_clips(clips[::-1], 0.2)
    assert split_clips(clips, 0.2) != split_clips(clips, 0.2, seed=1)


def test_groups_stay_together():
    train, val = split_clips(_clips(*WEIZMANN, group="^[a-z]+"), 0.2)
    assert len({clip.group for clip in val}) == 2 and len(val) == 6
    assert not {clip.group for clip in val} & {clip.group for clip in train}
    assert classes_in(train).keys() == classes_in(val).keys()


def test_uneven_groups_cover_every_class():
    """One source has half of all clips, most have one class."""
    sizes = Counter({("fight", "a"): 40, ("none", "a"): 2, ("none", "b"): 9, ("fight", "c"): 3, ("fight", "d"): 8})
    sizes.update({("none", "e"): 5, ("none", "f"): 20})
    clips = [Clip(f"{g}{n}.mp4", label, g) for (label, g), size in sizes.items() for n in range(size)]
    train, val = split_clips(clips, 0.2)
    assert not {clip.group for clip in val} & {clip.group for clip in train}
    assert set(classes_in(val)) == {"fight", "none"} == set(classes_in(train))
    assert 0.1 <= len(val) / len(clips) <= 0.35


def test_class_of_one_group_is_refused():
    clips = _clips("a/x_1.mp4", "a/x_2.mp4", "b/x_1.mp4", "b/y_1.mp4", group="^.")
    with pytest.raises(UserError, match="class 'a': all of its clips are of the group 'x'"):
        split_clips(clips, 0.5)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (WEIZMANN, 9),
        ([f"{a}/v_{a}_g{g:02d}_c{c:02d}.avi" for a in ("Run", "Jump") for g in range(5) for c in range(4)], 5),
        ([f"{a}/person{p:02d}_{a}_d{d}.avi" for a in ACTIONS for p in range(25) for d in range(4)], 25),
        ([f"{a}/{v}-{c}.mp4" for a in ("hug", "run") for v in ("x3Yz", "Qq1w", "9lkJ") for c in range(3)], 3),
        ([f"{a}/{a}_{n:02d}.mp4" for a in ACTIONS for n in range(9)], 0),  # a number per clip
        ([f"fight/fi{n:03d}.mp4" for n in range(9)] + [f"none/nofi{n:03d}.mp4" for n in range(9)], 0),
        ([f"{a}/clip {n}.mp4" for a in ACTIONS for n in range(9)], 0),
        ([f"{a}/{a}{n}.mp4" for a in ACTIONS for n in range(9)], 0),
    ],
)
def test_groups_in_names_are_suspected(names, groups):
    found = suspect_groups(_clips(*names))
    assert (found.number if found else 0) == groups
    if found:  # the pattern finds these groups
        assert len({re.search(found.pattern, name.split("/")[1])[1] for name in names}) == groups
