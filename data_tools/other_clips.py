"""Make clips that show none of a network's actions, for its class `other`.

They come from videos of other things, altered to look like many more; from pictures, over which the view moves; from
shapes that move like a cartoon; and from clips of the actions themselves, of which no action is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from data_tools.sample_set.actions import ACTIONS
from data_tools.sample_set.clips import Clip, recorded_frames
from octvideo.data.decoders.decode import open_video
from octvideo.files import atomic_write

__all__ = ["Job", "make", "plan"]

FPS = 25
SHORT_SIDE = 128  # pixels
FRAMES = 64  # at most
RENDERED = sorted(set(ACTIONS) - {"jumping_jack", "walk", "wave"})  # those are actions of the Weizmann set
DRAWN = 20  # rendered clips, and as many of shapes

Frames = list[Image.Image]


@dataclass(frozen=True)
class Job:
    """A clip to make.

    Attributes:
        kind: a key of ``KINDS``.
        source: what must not be on both sides of a split: a camera, a person, or "" for what is drawn.
        seed: the clip follows from it, and from the video.
        video: what it is made from; None for what is drawn.
    """

    kind: str
    source: str
    seed: int
    video: Path | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.kind}_{self.seed:05d}.mp4"


def plan(others: Sequence[tuple[Path, str]], known: Sequence[tuple[Path, str]]) -> list[Job]:
    """Return the clips to make from videos and their sources: of other things, and of the network's actions."""
    jobs = [
        (kind, source, video) for n, kind in enumerate(("plain", "altered", "still")) for video, source in others[n::3]
    ]
    for number, kind in enumerate(("frozen", "turned", "shuffled", "empty")):
        jobs += [(kind, source, video) for video, source in known[number::9]]
    drawn = [(kind, "", None) for kind in ("rendered", "shapes") for _ in range(DRAWN)]
    return [Job(kind, source, seed, video) for seed, (kind, source, video) in enumerate([*jobs, *drawn])]


def make(job: Job, folder: Path) -> Path:
    """Make one clip, if it is not there, and return its path."""
    path = folder / job.name
    if not path.exists():
        rng = np.random.default_rng(job.seed)
        _encode(_KINDS[job.kind](job, rng), path)
    return path


def _read(video: Path, step: int = 1, start: float = 0.0) -> Frames:
    """Return at most ``FRAMES`` frames, each ``step``-th, small; ``start`` is the share of what is left out before."""
    with open_video(str(video), short_side=SHORT_SIDE) as reader:
        step = max(1, min(step, len(reader) // 32))
        count = min(FRAMES, len(reader) // step)
        first = int(start * (len(reader) - count * step))
        pictures = reader.frames(first + step * np.arange(count))
    return [_small(Image.fromarray(picture)) for picture in pictures]


def _small(image: Image.Image) -> Image.Image:
    scale = SHORT_SIDE / min(image.size)
    width, height = (2 * round(side * scale / 2) for side in image.size)
    return image.resize(
        (min(width, 4 * SHORT_SIDE), min(height, 4 * SHORT_SIDE)), Image.Resampling.BILINEAR, reducing_gap=2
    )


def _plain(job: Job, rng: np.random.Generator) -> Frames:
    return _read(_video(job), start=rng.uniform())


def _altered(job: Job, rng: np.random.Generator) -> Frames:
    """Zoomed, turned, recoloured, and faster or slower."""
    frames = _read(_video(job), int(rng.choice([1, 1, 2, 3])), rng.uniform())
    if rng.uniform() < 0.3:  # half as fast
        frames = [frame for frame in frames[: FRAMES // 2] for _ in range(2)]
    box = _box(frames[0].size, rng.uniform(0.3, 1), rng)
    turn = rng.choice([None, None, *Image.Transpose])
    matrix = _color_matrix(rng)
    return [_look(frame, box, turn, matrix) for frame in frames]


def _look(
    image: Image.Image, box: Sequence[float], turn: Image.Transpose | None, matrix: Sequence[float]
) -> Image.Image:
    image = _view(image, box)
    return (image if turn is None else image.transpose(turn)).convert("RGB", tuple(matrix))


def _color_matrix(rng: np.random.Generator) -> list[float]:
    """Draw a matrix for ``Image.convert``: grey, swapped or mixed channels, with gain and offset."""
    weights = np.eye(3)
    if rng.uniform() < 0.25:
        weights = np.full((3, 3), 1 / 3)
    elif rng.uniform() < 0.5:
        weights = 0.7 * weights[rng.permutation(3)] + 0.3 * rng.dirichlet((1, 1, 1), 3)
    gain, offset = rng.uniform(0.6, 1.4), rng.uniform(-40, 40)
    return [float(value) for row in weights for value in (*(gain * row), offset)]


def _box(size: tuple[int, int], share: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a box with this share of the sides: left, top, right, bottom."""
    width, height = size[0] * share, size[1] * share
    left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return left, top, left + width, top + height


def _view(image: Image.Image, box: Sequence[float]) -> Image.Image:
    left, top, right, bottom = box
    scale = SHORT_SIDE / min(right - left, bottom - top)
    size = (2 * round((right - left) * scale / 2), 2 * round((bottom - top) * scale / 2))
    return image.resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))


def _still(job: Job, rng: np.random.Generator) -> Frames:
    """A picture, over which the view moves."""
    return _pan(rng.choice(np.array([None, *_read(_video(job))], dtype=object)[1:]), rng)


def _pan(picture: Image.Image, rng: np.random.Generator) -> Frames:
    """Move the view from one box to another, or not at all."""
    share = rng.uniform(0.4, 0.9)
    first = np.array(_box(picture.size, share, rng))
    last = first if rng.uniform() < 0.2 else np.array(_box(picture.size, share, rng))
    matrix = _color_matrix(rng)
    return [
        _look(picture, first + (last - first) * t, None, matrix) for t in np.linspace(0, rng.uniform(0.3, 1), FRAMES)
    ]


def _frozen(job: Job, rng: np.random.Generator) -> Frames:
    frames = _read(_video(job))
    return [frames[rng.integers(len(frames))]] * FRAMES


def _turned(job: Job, rng: np.random.Generator) -> Frames:
    turn = rng.choice([Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
    return [frame.transpose(turn) for frame in _read(_video(job))]


def _shuffled(job: Job, rng: np.random.Generator) -> Frames:
    """Tiles of the picture, in another order."""
    frames = _read(_video(job))
    columns, rows = rng.integers(2, 5, 2)
    width, height = frames[0].width // columns // 2 * 2, frames[0].height // rows // 2 * 2
    places = [(x * width, y * height) for x in range(columns) for y in range(rows)]
    order = rng.permutation(len(places)).tolist()
    return [_tiled(frame, places, order, (columns * width, rows * height), (width, height)) for frame in frames]


def _tiled(
    frame: Image.Image,
    places: Sequence[tuple[int, int]],
    order: Sequence[int],
    size: tuple[int, int],
    tile: tuple[int, int],
) -> Image.Image:
    image = Image.new("RGB", size)
    for place, source in zip(places, order):
        left, top = places[source]
        image.paste(frame.crop((left, top, left + tile[0], top + tile[1])), place)
    return image


def _empty(job: Job, rng: np.random.Generator) -> Frames:
    """The scene without the person: the median over time."""
    scene = Image.fromarray(np.median([np.asarray(frame) for frame in _read(_video(job))], axis=0).astype(np.uint8))
    return _pan(scene, rng)


def _rendered(job: Job, rng: np.random.Generator) -> Frames:
    action = RENDERED[job.seed % len(RENDERED)]
    clip = Clip(action, (job.seed,), (job.seed, 1), SHORT_SIDE, 40)
    box, matrix = _box((SHORT_SIDE, SHORT_SIDE), rng.uniform(0.6, 1), rng), _color_matrix(rng)
    return [_look(frame, box, None, matrix) for frame in recorded_frames(clip)]


def _shapes(job: Job, rng: np.random.Generator) -> Frames:
    """Shapes of one colour each that move over a gradient."""
    size = int(SHORT_SIDE * rng.uniform(1, 1.8)) // 2 * 2, SHORT_SIDE
    sky, ground = rng.integers(0, 256, (2, 3))
    ground = ground if rng.uniform() < 0.5 else sky
    background = ImageOps.colorize(Image.linear_gradient("L").resize(size), tuple(sky.tolist()), tuple(ground.tolist()))
    count = rng.integers(1, 8)
    color = rng.integers(0, 256, (count, 3))
    start, move = rng.uniform(0, size, (count, 2)), rng.normal(0, 2, (count, 2))
    sway, rate, phase = rng.exponential(8, (count, 2)), rng.uniform(0.05, 0.6, count), rng.uniform(0, 6, count)
    corners = rng.normal(0, rng.uniform(6, 24), (count, rng.integers(3, 9), 2))
    spin = rng.normal(0, 0.05, count)
    frames = []
    for time in range(FRAMES):
        image = background.copy()
        draw = ImageDraw.Draw(image)
        for k in range(count):
            cos, sin = np.cos(spin[k] * time), np.sin(spin[k] * time)
            center = start[k] + move[k] * time + sway[k] * np.sin(rate[k] * time + phase[k])
            points = corners[k] @ np.array([[cos, sin], [-sin, cos]]) + center
            draw.polygon([tuple(point) for point in points.tolist()], fill=tuple(color[k].tolist()))
        frames.append(image)
    return frames


def _video(job: Job) -> Path:
    assert job.video is not None
    return job.video


_KINDS: dict[str, Callable[[Job, np.random.Generator], Frames]] = {
    "plain": _plain,
    "altered": _altered,
    "still": _still,
    "frozen": _frozen,
    "turned": _turned,
    "shuffled": _shuffled,
    "empty": _empty,
    "rendered": _rendered,
    "shapes": _shapes,
}


def _encode(frames: Frames, path: Path) -> None:
    with atomic_write(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "24", "preset": "veryfast"})
        (stream.width, stream.height), stream.pix_fmt = frames[0].size, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
