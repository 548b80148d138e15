"""The actions of the sample sets: how a pose follows from time.

Periodic actions last for the whole video. One-shot actions go from one pose to another with a hold at both ends.
``stand_up`` and ``arms_close`` are ``sit_down`` and ``arms_open`` with time mirrored about the middle of the video,
camera shake included. They show the same pictures equally often and differ only in the order of the frames. So do
``lower_arms``, ``walk_backwards`` and ``circle_arms_back`` of the hard set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np

from data_tools.sample_set.figures import Limb, Pose

__all__ = ["ACTIONS", "ALL_ACTIONS", "Action", "Motion", "make_motion"]

Quirks = tuple[float, float, float]  # the manner of this performance, each in [-1, 1]
PoseOf = Callable[[float, Quirks], Pose]


@dataclass(frozen=True)
class Action:
    """An action.

    Attributes:
        pose: pose at a phase; a full turn is 1 in a periodic action, a one-shot action goes from 0 to 1.
        yaw: range of the angle between figure and camera, degrees; 0 is frontal, 90 is in profile.
        rate: range of turns per second in a periodic action; None marks a one-shot action.
        mirrored: time runs backwards.
        seat: a chair or a stool is behind the figure.
        travel: range of the distance that the figure walks during the video, in body heights.
    """

    pose: PoseOf
    yaw: tuple[float, float]
    rate: tuple[float, float] | None = None
    mirrored: bool = False
    seat: bool = False
    travel: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Motion:
    """One performance of an action: pose and camera shake at every frame."""

    poses: list[Pose]
    shake: list[tuple[float, float]]  # x, y in body heights


def _mix(a: float, b: float, w: float) -> float:
    return a + (b - a) * w


def _blend(a: Limb, b: Limb, w: float) -> Limb:
    return Limb(*(_mix(p, q, w) for p, q in zip(a, b)))


def _both(limb: Limb) -> tuple[Limb, Limb]:
    return limb, limb


def _wave_of(phase: float) -> float:
    """0 at phase 0, 1 at phase 1/2."""
    return (1 - cos(2 * pi * phase)) / 2


def _idle(q: Quirks) -> Limb:
    return Limb(4 + 5 * q[1], 9 + 5 * q[2], 12 + 10 * q[0], 0)


_STANCE = (Limb(2, 4, -4, -2), Limb(-1, 4, -3, -2))


def _sit(s: float, q: Quirks) -> Pose:
    reach = sin(pi * s)
    rest = Limb(28 + 14 * q[0], 8, 50 + 20 * q[1], -6)
    arm = _blend(_idle(q), rest, s)
    arm = arm._replace(flex=arm.flex + (22 + 14 * q[2]) * reach)
    leg = Limb(88 * s, 5, -88 * s - 8 * reach, -1)
    return Pose(_both(arm), _both(leg), lean=(32 + 8 * q[0]) * reach + 3 * s, planted=True)


def _arms_open(s: float, q: Quirks) -> Pose:
    closed = Limb(72 + 8 * q[0], 6, 16 + 10 * q[1], -48 - 8 * q[2])
    spread = Limb(40 + 10 * q[0], 86 + 8 * q[1], 6, 2 + 5 * q[2])
    return Pose(_both(_blend(closed, spread, s)), _STANCE, lean=_mix(3, -3, s))


def _jumping_jack(phase: float, q: Quirks) -> Pose:
    w = _wave_of(phase)
    arm = Limb(6, _mix(12, 150 + 10 * q[0], w), 6, _mix(2, 14 + 8 * q[1], w))
    leg = Limb(0, _mix(3, 23 + 5 * q[2], w), -2, 0)
    return Pose(_both(arm), _both(leg), lift=0.05 * abs(sin(2 * pi * phase)))


def _wave(phase: float, q: Quirks) -> Pose:
    arm = Limb(10, 92 + 18 * q[0], 8, 68 + 10 * q[1] - 18 * q[0] + (32 + 6 * q[2]) * cos(2 * pi * phase))
    return Pose((arm, _idle(q)), _STANCE, side_lean=-3 - 2 * q[1])


def _squat(phase: float, q: Quirks) -> Pose:
    w = _wave_of(phase)
    arm = _blend(_idle(q), Limb(82 + 10 * q[0], 6, 10, -4), w)
    leg = Limb(_mix(2, 82 + 8 * q[1], w), 13 + 4 * q[2], -_mix(4, 112 + 10 * q[1], w), -10)
    return Pose(_both(arm), _both(leg), lean=_mix(0, 36 + 6 * q[0], w), planted=True)


def _kick(phase: float, q: Quirks) -> Pose:
    w, rising = _wave_of(phase), sin(2 * pi * phase)
    kicking = Limb(_mix(-22, 82 + 14 * q[0], w), 6, -12 - 62 * max(0.0, rising) - 18 * max(0.0, -rising), -3)
    arms = (_blend(Limb(22, 16, 25), Limb(-32, 22, 20), w), _blend(Limb(-18, 16, 20), Limb(42 + 10 * q[1], 20, 30), w))
    return Pose(arms, (kicking, Limb(-2, 3, -6, -2)), lean=_mix(4, -9 - 4 * q[2], w))


def _walk(phase: float, q: Quirks) -> Pose:
    stride, swing = 27 + 5 * q[0], 24 + 10 * q[1]

    def leg(at: float) -> Limb:
        return Limb(stride * sin(2 * pi * at) + 3, 2, -8 - 46 * max(0.0, cos(2 * pi * at)) ** 1.5, -1)

    def arm(at: float) -> Limb:
        return Limb(-swing * sin(2 * pi * at), 7, 22 + 12 * q[2] - 10 * sin(2 * pi * at), -2)

    return Pose((arm(phase), arm(phase + 0.5)), (leg(phase), leg(phase + 0.5)), lean=4 + 2 * q[2])


def _clap(phase: float, q: Quirks) -> Pose:
    w = _wave_of(phase)
    height = 8 * q[0]
    arm = _blend(Limb(40 + height, 40 + 6 * q[1], 48, 8), Limb(46 + height, 11, 42 + 6 * q[2], -72), w)
    return Pose(_both(arm), _STANCE)


def _raise_arms(s: float, q: Quirks) -> Pose:
    arm = _blend(_idle(q), Limb(168 + 8 * q[0], 8 + 5 * q[1], 6, 0), s)
    return Pose(_both(arm), _STANCE, lean=_mix(3, -4, s))


def _circle_arms(phase: float, q: Quirks) -> Pose:
    arm = Limb(360 * phase, 8 + 5 * q[0], 8 + 5 * q[1], 0)
    return Pose(_both(arm), _STANCE, lean=2 + 2 * q[2])


def _bow(phase: float, q: Quirks) -> Pose:
    return Pose(_both(_idle(q)), _STANCE, lean=_mix(2, 62 + 10 * q[0], _wave_of(phase)))


def _punch(phase: float, q: Quirks) -> Pose:
    guard, strike = Limb(30 + 8 * q[0], 10, 100 + 10 * q[1], -12), Limb(84 + 8 * q[2], 6, 4, -8)
    arms = tuple(_blend(guard, strike, _wave_of(at) ** 2) for at in (phase, phase + 0.5))
    return Pose((arms[0], arms[1]), (Limb(14, 5, -10, -2), Limb(-14, 5, -8, -2)), lean=6)


def _run(phase: float, q: Quirks) -> Pose:
    stride = 40 + 6 * q[0]

    def leg(at: float) -> Limb:
        return Limb(stride * sin(2 * pi * at) + 10, 2, -18 - 76 * max(0.0, cos(2 * pi * at)) ** 1.2, -1)

    def arm(at: float) -> Limb:
        return Limb(-38 * sin(2 * pi * at), 8, 80 + 10 * q[1], -4)

    legs = (leg(phase), leg(phase + 0.5))
    return Pose((arm(phase), arm(phase + 0.5)), legs, lean=10 + 4 * q[2], lift=0.03 * abs(sin(2 * pi * phase)))


def _march(phase: float, q: Quirks) -> Pose:
    def leg(at: float) -> Limb:
        w = max(0.0, sin(2 * pi * at))
        return Limb(2 + (66 + 10 * q[0]) * w, 3, -5 - (72 + 8 * q[1]) * w, -1)

    def arm(at: float) -> Limb:
        return Limb(-(28 + 8 * q[2]) * sin(2 * pi * at), 7, 24, -2)

    return Pose((arm(phase), arm(phase + 0.5)), (leg(phase), leg(phase + 0.5)), lean=1)


def _hop(phase: float, q: Quirks) -> Pose:
    rise = sin(2 * pi * phase)
    crouch = max(0.0, -rise)
    leg = Limb(4 + 34 * crouch, 4, -6 - 58 * crouch, -2)
    arm = _idle(q)._replace(flex=10 - 30 * crouch + 20 * max(0.0, rise))
    return Pose(_both(arm), _both(leg), lean=3 + 14 * crouch, lift=(0.1 + 0.03 * q[0]) * max(0.0, rise))


ACTIONS: dict[str, Action] = {
    "arms_close": Action(_arms_open, (0, 35), mirrored=True),
    "arms_open": Action(_arms_open, (0, 35)),
    "clap": Action(_clap, (0, 35), rate=(1.2, 2.2)),
    "jumping_jack": Action(_jumping_jack, (0, 35), rate=(0.9, 1.6)),
    "kick": Action(_kick, (50, 88), rate=(0.8, 1.3)),
    "sit_down": Action(_sit, (45, 88), seat=True),
    "squat": Action(_squat, (25, 80), rate=(0.65, 1.1)),
    "stand_up": Action(_sit, (45, 88), mirrored=True, seat=True),
    "walk": Action(_walk, (50, 88), rate=(0.8, 1.3), travel=(0.0, 0.5)),
    "wave": Action(_wave, (0, 35), rate=(1.2, 2.2)),
}
# Those of the hard set.
ALL_ACTIONS: dict[str, Action] = {
    **ACTIONS,
    "bow": Action(_bow, (25, 80), rate=(0.6, 1.0)),
    "circle_arms": Action(_circle_arms, (25, 88), rate=(0.7, 1.2)),
    "circle_arms_back": Action(_circle_arms, (25, 88), rate=(0.7, 1.2), mirrored=True),
    "hop": Action(_hop, (0, 88), rate=(1.1, 1.7)),
    "lower_arms": Action(_raise_arms, (0, 88), mirrored=True),
    "march": Action(_march, (25, 88), rate=(0.8, 1.3)),
    "punch": Action(_punch, (25, 80), rate=(0.9, 1.5)),
    "raise_arms": Action(_raise_arms, (0, 88)),
    "run": Action(_run, (50, 88), rate=(1.2, 1.8), travel=(0.0, 0.5)),
    "walk_backwards": Action(_walk, (50, 88), rate=(0.8, 1.3), travel=(0.0, 0.5), mirrored=True),
}


def _progress(u: float, skew: float) -> float:
    """0 before u = 0, 1 after u = 1, smooth between; ``skew`` in (-1, 1) makes the start or the end slower."""
    u = min(1.0, max(0.0, u))
    u += skew * u * (1 - u)
    return u * u * (3 - 2 * u)


def make_motion(action: Action, frames: int, fps: int, rng: np.random.Generator) -> Motion:
    """Draw one performance: speed, start, manner, sway and camera shake come from ``rng``.

    With the same ``rng`` state, a mirrored action has exactly the reversed frames of its twin.
    A transition takes 45 to 65 % of the frames about the middle, so that a clip of 32 of 40 frames sees most of it.
    """
    first, second, third = rng.uniform(-1, 1, 3).tolist()
    quirks = (first, second, third)
    duration, centre = rng.uniform(0.45, 0.65) * frames, (frames - 1) / 2 + rng.uniform(-0.1, 0.1) * frames
    skew, start = rng.uniform(-0.5, 0.5), rng.uniform()
    rate = rng.uniform(*action.rate) if action.rate else 0.0
    advance = rng.uniform(*action.travel)
    sway, shake = rng.uniform(0.2, 1.5), rng.uniform(0.0, 0.008)
    hertz, phases = rng.uniform(0.3, 1.6, 3), rng.uniform(0, 2 * pi, 3)
    poses, offsets = [], []
    for frame in range(frames):
        if action.rate:
            pose = action.pose(start + rate * frame / fps, quirks)
        else:
            pose = action.pose(_progress((frame - centre) / duration + 0.5, skew), quirks)
        drift = np.sin(2 * pi * hertz * frame / fps + phases)
        poses.append(
            replace(
                pose,
                lean=pose.lean + sway * float(drift[0]),
                side_lean=pose.side_lean + sway * float(drift[1]),
                advance=advance * (frame / frames - 0.5),
            )
        )
        offsets.append((shake * float(drift[1]), shake * float(drift[2])))
    if action.mirrored:
        poses.reverse()
        offsets.reverse()
    return Motion(poses, offsets)
