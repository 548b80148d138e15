"""What makes the hard set hard: more viewpoints, people behind the figure, things in front of it, a moving camera.

Nothing here depends on the action of the figure, so nothing of it gives the action away.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from PIL import Image, ImageDraw

from data_tools.sample_set.actions import ALL_ACTIONS, Motion, make_motion
from data_tools.sample_set.figures import Body, Camera, draw_figure, joints_of, make_body

__all__ = ["Filming", "make_filming"]

_BYSTANDERS = [name for name, action in ALL_ACTIONS.items() if action.rate]  # what they may do
_BUSY = 0.35  # probability of each of two bystanders, and of each of two things in front

Window = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the scene


@dataclass(frozen=True)
class Filming:
    """How a video is filmed; lengths are pixels of the scene.

    Attributes:
        turn: degrees, added to the angle between figure and camera.
        tilt, scale, x, floor: of the camera onto the figure.
        people: those behind the figure: body, camera, motion.
        front: RGBA picture of the things in front.
        windows: the part of the scene that each frame shows.
    """

    turn: float
    tilt: float
    scale: float
    x: float
    floor: float
    people: list[tuple[Body, Camera, Motion]]
    front: Image.Image
    windows: list[Window]

    def draw_people(self, image: Image.Image, frame: int, shift: tuple[int, int]) -> None:
        """Draw the people behind the figure, moved by the shake of the camera."""
        for body, at, motion in self.people:
            camera = Camera(at.yaw, at.tilt, at.distance, at.scale, at.x + shift[0], at.y + shift[1])
            draw_figure(image, body, joints_of(body, motion.poses[frame]), camera)

    def shoot(self, image: Image.Image, frame: int, size: int) -> Image.Image:
        """Return what the camera sees of the scene, ``size`` x ``size``."""
        image.paste(self.front, (0, 0), self.front)
        return image.resize((size, size), Image.Resampling.BILINEAR, box=self.windows[frame])


def make_filming(side: int, frames: int, fps: int, rng: np.random.Generator) -> Filming:
    """Draw a way to film a scene of ``side`` x ``side`` pixels."""
    x, floor = side * rng.uniform(0.42, 0.58), side * rng.uniform(0.88, 0.95)
    scale = side * rng.uniform(0.62, 0.8)
    turn, tilt = rng.uniform(-30, 30), rng.uniform(-2, 15)
    people = [_make_person(side, frames, fps, tilt, rng) for _ in range(2) if rng.uniform() < _BUSY]
    front = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(front)
    for _ in range(2):
        if rng.uniform() < _BUSY:
            _draw_thing(draw, side, rng)
    middle = (x, floor - 0.45 * scale)
    return Filming(turn, tilt, scale, x, floor, people, front, _windows(side, middle, frames, fps, rng))


def _make_person(
    side: int, frames: int, fps: int, tilt: float, rng: np.random.Generator
) -> tuple[Body, Camera, Motion]:
    scale, body = side * rng.uniform(0.25, 0.38), make_body(rng)
    x, floor = side * rng.uniform(0.05, 0.95), side * rng.uniform(0.7, 0.84)
    action = ALL_ACTIONS[_BYSTANDERS[rng.integers(len(_BYSTANDERS))]]
    camera = Camera(rng.uniform(-180, 180), tilt, 6.0, scale, x, floor)
    return body, camera, make_motion(action, frames, fps, rng)


def _draw_thing(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Draw a post that crosses the scene, or a box on its lower edge."""
    colour = tuple(rng.integers(20, 230, 3).tolist())
    left = side * rng.uniform(0.1, 0.9)
    if rng.uniform() < 0.5:
        width, slant = side * rng.uniform(0.02, 0.05), side * rng.uniform(-0.1, 0.1)
        draw.polygon(
            [(left, 0), (left + width, 0), (left + width + slant, side), (left + slant, side)], fill=(*colour, 255)
        )
    else:
        width, top = side * rng.uniform(0.12, 0.3), side * rng.uniform(0.78, 0.9)
        box = (left - width / 2, top, left + width / 2, side)
        draw.rectangle(box, fill=(*colour, 255), outline=(0, 0, 0, 255), width=2)


def _windows(side: int, middle: tuple[float, float], frames: int, fps: int, rng: np.random.Generator) -> list[Window]:
    """Draw a smooth path of a square window that stays in the scene, pans and zooms, and mostly has the figure."""
    wide, zoom = rng.uniform(0.88, 1.0), rng.uniform(0.0, 0.08)
    pan, hertz, phases = rng.uniform(0.0, 0.05, 2), rng.uniform(0.15, 0.6, 3), rng.uniform(0, 2 * pi, 3)
    centre = np.asarray(middle) + side * rng.uniform(-0.03, 0.03, 2)
    windows = []
    for frame in range(frames):
        swing = np.sin(2 * pi * hertz * frame / fps + phases)
        half = side * min(1.0, wide * (1 + zoom * swing[2])) / 2
        x, y = np.clip(centre + side * pan * swing[:2], half, side - half).tolist()
        windows.append((x - half, y - half, x + half, y + half))
    return windows
