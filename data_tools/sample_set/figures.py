"""Draw an articulated figure from a body, a pose and a camera.

Space is right-handed with the figure's height near 1: x to its left, y up, z to its front; the floor is y = 0.
Angles are degrees. A limb has two segments; ``flex`` swings it forward from hanging, ``abduct`` sideways away
from the body, and the second segment adds its own ``bend`` (forward) and ``turn`` (sideways) to those::

      shoulder o                 direction = ( side * sin(abduct),
               |  flex, abduct                -cos(abduct) * cos(flex),
         elbow o                               cos(abduct) * sin(flex) )
                \\  + bend, turn
            hand o
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from math import cos, hypot, radians, sin
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["Body", "Camera", "Limb", "Pose", "draw_figure", "joints_of", "make_body"]

Colour = tuple[int, int, int]
Point = tuple[float, float, float]

_SKIN = ((255, 224, 196), (241, 194, 160), (224, 172, 125), (198, 134, 92), (141, 85, 54), (92, 58, 41))
_HAIR = ((30, 24, 22), (70, 44, 28), (120, 76, 38), (196, 158, 90), (150, 60, 34), (150, 150, 150))
_SIDES = (1.0, -1.0)  # left, right


class Limb(NamedTuple):
    """Angles of an arm or a leg in degrees; a knee bends backwards, so its ``bend`` is negative."""

    flex: float = 0.0
    abduct: float = 0.0
    bend: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Angles of all joints; limbs are (left, right).

    ``lift`` raises the feet from the floor, ``advance`` moves the figure forward (both in body heights). If
    ``planted``, the feet stay in place and the pelvis moves; otherwise the pelvis stays above the origin.
    """

    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    lean: float = 0.0
    side_lean: float = 0.0
    lift: float = 0.0
    advance: float = 0.0
    planted: bool = False


@dataclass(frozen=True)
class Body:
    """Proportions and clothes of a figure: lengths in units of a body height of 1, colours RGB."""

    height: float
    girth: float
    head: float
    shoulders: float
    legs: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    sleeve: float  # share of the arm that is covered
    trouser_length: float  # share of the leg that is covered
    long_hair: bool

    @property
    def thigh(self) -> float:
        """Length from hip to knee."""
        return 0.245 * self.legs

    @property
    def shin(self) -> float:
        """Length from knee to ankle."""
        return 0.225 * self.legs


@dataclass(frozen=True)
class Camera:
    """A weak perspective onto a square picture; ``scale`` is pixels per body height, (x, y) the pixel of the origin."""

    yaw: float
    tilt: float
    distance: float
    scale: float
    x: float
    y: float

    def project(self, point: Point) -> tuple[float, float, float]:
        """Return pixel x, pixel y and nearness (larger is closer to the camera) of a point in space."""
        px, py, pz = point
        turn, tilt = radians(self.yaw), radians(self.tilt)
        across = px * cos(turn) + pz * sin(turn)
        near = pz * cos(turn) - px * sin(turn)
        factor = self.scale / (1.0 - near / self.distance)
        return self.x + across * factor, self.y - (py * cos(tilt) - near * sin(tilt)) * factor, near


def _vivid(rng: np.random.Generator, value: tuple[float, float]) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(*value))
    return round(255 * red), round(255 * green), round(255 * blue)


def make_body(rng: np.random.Generator) -> Body:
    """Draw a body and its clothes at random."""
    return Body(
        height=float(rng.uniform(0.86, 1.04)),
        girth=float(rng.uniform(0.85, 1.3)),
        head=float(rng.uniform(0.95, 1.25)),
        shoulders=float(rng.uniform(0.9, 1.2)),
        legs=float(rng.uniform(0.94, 1.06)),
        skin=_SKIN[rng.integers(len(_SKIN))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        shirt=_vivid(rng, (0.3, 1.0)),
        trousers=_vivid(rng, (0.12, 0.75)),
        shoes=_vivid(rng, (0.05, 0.95)),
        sleeve=float(rng.choice([0.3, 0.45, 0.95, 0.95])),
        trouser_length=float(rng.choice([0.5, 0.97, 0.97])),
        long_hair=bool(rng.uniform() < 0.4),
    )


def _along(start: Point, length: float, side: float, flex: float, abduct: float) -> Point:
    f, a = radians(flex), radians(abduct)
    return (
        start[0] + length * side * sin(a),
        start[1] - length * cos(a) * cos(f),
        start[2] + length * cos(a) * sin(f),
    )


def joints_of(body: Body, pose: Pose) -> dict[str, Point]:
    """Return the joints in space (forward kinematics); the lower ankle is on the floor, plus ``pose.lift``."""
    lean, tilt = radians(pose.lean), radians(pose.side_lean)
    up = (sin(tilt), cos(tilt) * cos(lean), cos(tilt) * sin(lean))
    front = (0.0, -sin(lean), cos(lean))
    joints: dict[str, Point] = {"pelvis": (0.0, 0.0, 0.0)}

    def above(height: float, forward: float = 0.0, across: float = 0.0) -> Point:
        across_x, across_y = across * cos(tilt), -across * sin(tilt)
        return (
            up[0] * height + front[0] * forward + across_x,
            up[1] * height + front[1] * forward + across_y,
            up[2] * height + front[2] * forward,
        )

    joints["neck"] = above(0.325)
    middle = 0.335 + 0.075 * body.head
    size = 0.06 * body.head
    joints["head"] = above(middle, 0.012)
    joints["face"] = above(middle - 0.1 * size, 0.012 + 0.22 * size)
    joints["hair"] = above(middle + 0.2 * size, 0.012 - 0.22 * size)
    joints["nape"] = above(middle - 0.75 * size, 0.012 - 0.55 * size)
    joints["nose"] = above(middle - 0.15 * size, 0.012 + 1.08 * size)
    for name, side, arm, leg in zip(("left", "right"), _SIDES, pose.arms, pose.legs):
        joints[f"{name}_eye"] = above(middle + 0.12 * size, 0.012 + 0.98 * size, side * 0.36 * size)
        joints[f"{name}_shoulder"] = above(0.295, 0.0, side * 0.105 * body.shoulders)
        joints[f"{name}_hip"] = (side * 0.055 * body.girth, 0.0, 0.0)
        elbow = _along(joints[f"{name}_shoulder"], 0.165, side, arm.flex, arm.abduct)
        second = (side, arm.flex + arm.bend, arm.abduct + arm.turn)
        joints[f"{name}_elbow"] = elbow
        joints[f"{name}_wrist"] = _along(elbow, 0.14, *second)
        joints[f"{name}_hand"] = _along(elbow, 0.175, *second)
        knee = _along(joints[f"{name}_hip"], body.thigh, side, leg.flex, leg.abduct)
        swing = leg.flex + leg.bend
        ankle = _along(knee, body.shin, side, swing, leg.abduct + leg.turn)
        # A foot in the air follows its shin; one that carries weight stays nearly flat under a slanted shin.
        pitch = radians(swing if swing > 15 else 0.35 * swing)
        joints[f"{name}_knee"], joints[f"{name}_ankle"] = knee, ankle
        joints[f"{name}_toe"] = (
            ankle[0] + side * 0.015,
            ankle[1] - 0.02 + 0.09 * sin(pitch),
            ankle[2] + 0.09 * cos(pitch),
        )
    left, right = joints["left_ankle"], joints["right_ankle"]
    rise = 0.04 + pose.lift - min(left[1], right[1])
    forward = pose.advance - ((left[2] + right[2]) / 2 if pose.planted else 0.0)
    return {name: (x, y + rise, z + forward) for name, (x, y, z) in joints.items()}


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(max(0, min(255, round(channel * factor))) for channel in colour)  # type: ignore[return-value]


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])


class _Pencil:
    """Draws shaded capsules and discs between projected points on one picture."""

    def __init__(self, image: Image.Image, camera: Camera, height: float) -> None:
        self.draw = ImageDraw.Draw(image)
        self.camera = camera
        self.unit = camera.scale * height

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    def capsule(self, a: Point, b: Point, ra: float, rb: float, colour: Colour) -> None:
        """Draw a tapered capsule from a (radius ra) to b (radius rb), in units of the body; lit from the upper left."""
        for factor, tint, shift in ((1.0, 0.72, 0.0), (0.72, 1.0, -0.2)):
            r1, r2 = ra * self.unit * factor, rb * self.unit * factor
            ax, ay = a[0] + shift * r1, a[1] + shift * r1
            bx, by = b[0] + shift * r2, b[1] + shift * r2
            fill = _shade(colour, tint)
            length = hypot(bx - ax, by - ay)
            if length > 0.5:
                nx, ny = (ay - by) / length, (bx - ax) / length
                corners = [(ax + nx * r1, ay + ny * r1), (bx + nx * r2, by + ny * r2)]
                corners += [(bx - nx * r2, by - ny * r2), (ax - nx * r1, ay - ny * r1)]
                self.draw.polygon(corners, fill=fill)
            self.disc(ax, ay, r1, r1, fill)
            self.disc(bx, by, r2, r2, fill)

    def limb(self, points: list[Point], radii: list[float], covered: float, cloth: Colour, skin: Colour) -> None:
        """Draw two segments in skin, and over them the share ``covered`` in cloth, measured from the body."""
        for index in (1, 0):
            a, b = points[index], points[index + 1]
            ra, rb = radii[index], radii[index + 1]
            share = min(1.0, max(0.0, 2 * covered - index))
            if share < 1:
                self.capsule(a, b, ra, rb, skin)
            if share > 0:
                end = _between(a, b, share)
                thick = 1.12
                self.capsule(a, end, thick * ra, thick * (ra + share * (rb - ra)), cloth)


def draw_figure(image: Image.Image, body: Body, joints: dict[str, Point], camera: Camera) -> None:
    """Draw the figure onto an RGB picture, from far to near parts."""
    seen = {
        name: camera.project((x * body.height, y * body.height, z * body.height)) for name, (x, y, z) in joints.items()
    }
    pencil = _Pencil(image, camera, body.height)
    girth = body.girth
    parts = []
    for name in ("left", "right"):
        arm = [seen[f"{name}_{joint}"] for joint in ("shoulder", "elbow", "wrist")]
        leg = [seen[f"{name}_{joint}"] for joint in ("hip", "knee", "ankle")]
        parts.append(((arm[1][2] + arm[2][2]) / 2, "arm", name, arm))
        parts.append(((leg[0][2] + leg[1][2]) / 2 - 0.05, "leg", name, leg))
    parts.append((seen["neck"][2] * 0.5 + seen["pelvis"][2] * 0.5, "torso", "", []))
    parts.append((seen["head"][2], "head", "", []))
    if body.long_hair:
        parts.append((seen["nape"][2] - 0.05, "nape", "", []))
    for _, part, name, points in sorted(parts, key=lambda item: item[0]):
        if part == "arm":
            hand = seen[f"{name}_hand"]
            pencil.capsule(points[2], hand, 0.02, 0.023, body.skin)
            pencil.limb(points, [0.034 * girth, 0.026 * girth, 0.019], body.sleeve, body.shirt, body.skin)
        elif part == "leg":
            pencil.capsule(points[2], seen[f"{name}_toe"], 0.03, 0.024, body.shoes)
            pencil.limb(points, [0.056 * girth, 0.04 * girth, 0.027], body.trouser_length, body.trousers, body.skin)
        elif part == "torso":
            _draw_torso(pencil, body, seen)
        elif part == "nape":
            radius = 0.06 * body.head * pencil.unit
            pencil.disc(*seen["nape"][:2], 0.9 * radius, 1.25 * radius, _shade(body.hair, 0.85))
        else:
            _draw_head(pencil, body, seen)


def _draw_torso(pencil: _Pencil, body: Body, seen: dict[str, Point]) -> None:
    girth = body.girth
    hips, shoulders = [[seen[f"{name}_{joint}"] for name in ("left", "right")] for joint in ("hip", "shoulder")]
    pencil.capsule(seen["neck"], seen["head"], 0.028, 0.028, _shade(body.skin, 0.85))
    pencil.capsule(hips[0], hips[1], 0.06 * girth, 0.06 * girth, body.trousers)
    waist = [_between(hip, shoulder, 0.12) for hip, shoulder in zip(hips, shoulders)]
    fill = [tuple(point[:2]) for point in (waist[0], shoulders[0], shoulders[1], waist[1])]
    far, near = sorted((0, 1), key=lambda index: shoulders[index][2])
    for index in (far, near):
        pencil.capsule(waist[index], shoulders[index], 0.055 * girth, 0.047 * girth, body.shirt)
    pencil.capsule(waist[0], waist[1], 0.055 * girth, 0.055 * girth, body.shirt)
    pencil.draw.polygon(fill, fill=body.shirt)
    pencil.capsule(shoulders[0], shoulders[1], 0.042 * girth, 0.042 * girth, body.shirt)


def _draw_head(pencil: _Pencil, body: Body, seen: dict[str, Point]) -> None:
    radius = 0.06 * body.head * pencil.unit
    pencil.disc(*seen["hair"][:2], 1.02 * radius, 1.1 * radius, body.hair)
    pencil.disc(*seen["face"][:2], 0.86 * radius, 1.02 * radius, body.skin)
    pencil.disc(*seen["nose"][:2], 0.14 * radius, 0.18 * radius, _shade(body.skin, 0.85))
    for name in ("left_eye", "right_eye"):
        if seen[name][2] > seen["head"][2] + 0.015:
            pencil.disc(*seen[name][:2], 0.13 * radius, 0.15 * radius, (25, 20, 20))
