"""``python -m data_tools.sample_set.examples``: render the example clips of ``octvideo app`` into ``octvideo/assets``.

A figure in front of a plain wall does jumping jacks; another one bends, then does jumping jacks. The wall, the distance
and the figures were chosen so that the networks that ship are mostly sure. In the third clip a figure of the sample set
squats, which these networks do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, pi
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import octvideo
from data_tools.sample_set.actions import ACTIONS
from data_tools.sample_set.clips import FPS, Clip, encode, render
from data_tools.sample_set.figures import Camera, Limb, Pose, draw_figure, joints_of, make_body

__all__ = ["main"]

_SIZE = 288  # pixels
_OVERSAMPLING = 2
_SECONDS = 4  # of an action


def _bend(time: float) -> Pose:
    down = (1 - cos(pi * time)) / 2
    left, right = (Limb(start + 14 * down, 4, -4 - 4 * down, -1) for start in (4, 2))
    arm = Limb(10 + 80 * down, 6, 8)
    return Pose((arm, arm), (left, right), lean=100 * down, planted=True)


def _jack(time: float) -> Pose:
    return ACTIONS["jumping_jack"].pose(1.2 * time, (0.0, 0.0, 0.0))


_YAW: dict[Callable[[float], Pose], int] = {_bend: 80, _jack: 0}  # degrees


def _wall(side: int) -> Image.Image:
    """A hedge, a wall and a path."""
    picture = np.empty((side, side, 3))
    for top, color in ((0.0, (128, 132, 120)), (0.3, (150, 148, 140)), (0.72, (172, 168, 158))):
        picture[int(side * top) :] = color
    picture += np.random.default_rng(99).normal(0, 7, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))


def _frames(figure: int, actions: list[Callable[[float], Pose]]) -> Iterator[Image.Image]:
    side = _SIZE * _OVERSAMPLING
    body, wall = make_body(np.random.default_rng((7, figure))), _wall(side)
    for action in actions:
        camera = Camera(_YAW[action], tilt=3, distance=30, scale=0.49 * side, x=side / 2, y=0.86 * side)
        for frame in range(_SECONDS * FPS):
            image = wall.copy()
            draw_figure(image, body, joints_of(body, action(frame / FPS)), camera)
            yield image.reduce(_OVERSAMPLING)


def main() -> None:
    """Write the clips."""
    assets = Path(octvideo.__file__).parent / "assets"
    encode(_frames(6, [_jack]), assets / "example_jack.mp4", _SIZE)
    encode(_frames(1, [_bend, _jack]), assets / "example_bend_jack.mp4", _SIZE)
    render(Clip("squat", (0, 1, 0), (0, 1, 3, 0), 160, 4 * FPS), assets / "example_unknown.mp4")


if __name__ == "__main__":
    main()
