"""Render and encode a video of the sample sets from its seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_tools.sample_set.actions import ALL_ACTIONS, make_motion
from data_tools.sample_set.figures import Camera, draw_figure, joints_of, make_body
from data_tools.sample_set.hard import Filming, make_filming
from data_tools.sample_set.scenery import Light, draw_seat, draw_shadow, make_background, make_light
from octvideo.files import atomic_write

__all__ = ["FPS", "Clip", "clean_frames", "encode", "recorded_frames", "render"]

FPS = 25
_OVERSAMPLING = 2  # frames are drawn larger and averaged down: smooth edges


@dataclass(frozen=True)
class Clip:
    """A video: its frames before encoding follow from these values.

    ``figure`` and ``take`` are seeds. A figure has the same body and clothes in every video. A ``hard`` one is filmed
    by a moving camera, with people behind the figure and things in front of it.
    """

    action: str
    figure: tuple[int, ...]
    take: tuple[int, ...]
    size: int
    frames: int
    hard: bool = False


def clean_frames(clip: Clip) -> Iterator[Image.Image]:
    """The frames before light and noise: RGB pictures, ``size`` x ``size``."""
    rng = np.random.default_rng(clip.take)
    body = make_body(np.random.default_rng(clip.figure))
    action = ALL_ACTIONS[clip.action]
    side = clip.size * _OVERSAMPLING
    margin = side // 16  # which camera shake can bring into the picture
    background = make_background(side + 2 * margin, [body.shirt, body.trousers, body.skin], rng)
    scale = side * rng.uniform(0.68, 0.8)
    yaw = rng.uniform(*action.yaw) * rng.choice([-1, 1])
    tilt, distance = rng.uniform(-2, 10), rng.uniform(2.5, 6)
    x, floor = side * rng.uniform(0.45, 0.55), side * rng.uniform(0.9, 0.95)
    if action.seat:  # center the figure with its seat
        x += np.sign(yaw) * 0.1 * scale
    mirror, chair = rng.uniform() < 0.5, rng.uniform() < 0.6
    red, green, blue = rng.integers(40, 200, 3).tolist()
    motion = make_motion(action, clip.frames, FPS, rng)
    filming: Filming | None = None
    if clip.hard:
        filming = make_filming(side, clip.frames, FPS, np.random.default_rng((*clip.take, 2)))
        yaw += filming.turn
        tilt, scale, x, floor = filming.tilt, filming.scale, filming.x, filming.floor
    for number, (pose, shake) in enumerate(zip(motion.poses, motion.shake)):
        dx, dy = (round(scale * offset) for offset in shake)
        image = background.crop((margin - dx, margin - dy, margin - dx + side, margin - dy + side))
        camera = Camera(yaw, tilt, distance, scale, x + dx, floor + dy)
        if filming:
            filming.draw_people(image, number, (dx, dy))
        joints = joints_of(body, pose)
        feet = [joints[f"{name}_ankle"] for name in ("left", "right")]
        spots = [camera.project((fx * body.height, 0.0, (fz + 0.03) * body.height))[:2] for fx, _, fz in feet]
        draw_shadow(image, spots, 0.13 * scale)
        if action.seat:
            draw_seat(image, body, camera, chair, (red, green, blue))
        draw_figure(image, body, joints, camera)
        small = filming.shoot(image, number, clip.size) if filming else image.reduce(_OVERSAMPLING)
        yield small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else small


def recorded_frames(clip: Clip) -> Iterator[Image.Image]:
    """The frames as a camera records them, with light and noise."""
    rng = np.random.default_rng((*clip.take, 1))
    light: Light = make_light(clip.size, rng)
    for image in clean_frames(clip):
        yield light.expose(image, rng)


def encode(frames: Iterator[Image.Image], path: Path, size: int) -> None:
    """Write H.264 (yuv420p).

    The same frames need not give the same bytes: on CPUs with AVX-512, x264's choices depend on what the process has
    encoded before.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "24", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def render(clip: Clip, path: Path) -> None:
    """Make one video file."""
    encode(recorded_frames(clip), path, clip.size)
