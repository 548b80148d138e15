"""Draw the surroundings of the figure: wall, floor, furniture, its seat, light and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from data_tools.sample_set.figures import Body, Camera

__all__ = ["Light", "draw_seat", "draw_shadow", "make_background", "make_light"]

Colour = tuple[int, int, int]


def _tone(rng: np.random.Generator, low: int, high: int, tint: int = 35) -> Colour:
    """Draw a mostly grey colour with a tint."""
    red, green, blue = np.clip(rng.uniform(low, high) + rng.uniform(-tint, tint, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _wall_colour(rng: np.random.Generator, clothes: list[Colour]) -> Colour:
    """Draw a wall colour that differs from the clothes: the best of a few draws."""
    draws = [_tone(rng, 60, 220) for _ in range(12)]
    return max(draws, key=lambda wall: min(80.0, *(float(np.linalg.norm(np.subtract(wall, c))) for c in clothes)))


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Draw smooth noise, (height, width, 1), of random grain and strength."""
    grain = int(rng.integers(4, 40))
    noise = Image.fromarray(rng.normal(size=(grain, grain)).astype(np.float32), mode="F")
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[..., None] * rng.uniform(2, 12)


def _gradient(rng: np.random.Generator, colour: Colour, width: int, height: int) -> np.ndarray:
    x, y = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    slope_x, slope_y = rng.uniform(-30, 30, 2)
    return np.asarray(colour, np.float64) + slope_x * x + slope_y * y + _texture(rng, width, height)


def make_background(side: int, clothes: list[Colour], rng: np.random.Generator) -> Image.Image:
    """Draw a square RGB picture of a room: wall, floor, and 1 to 3 pieces of furniture."""
    wall = _wall_colour(rng, clothes)
    horizon = round(side * rng.uniform(0.6, 0.84))
    canvas = np.empty((side, side, 3))
    canvas[:horizon] = _gradient(rng, wall, side, horizon)
    canvas[horizon:] = _gradient(rng, _tone(rng, 50, 190, 45), side, side - horizon)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    if rng.uniform() < 0.5:
        _floor_lines(draw, side, horizon, rng)
    if rng.uniform() < 0.7:
        skirting = side * rng.uniform(0.01, 0.03)
        draw.rectangle((0, horizon - skirting, side, horizon), fill=(*_tone(rng, 30, 240), 255))
    for _ in range(rng.integers(1, 4)):
        _draw_furniture(draw, side, horizon, rng)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.5))))


def _floor_lines(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: np.random.Generator) -> None:
    colour = (0, 0, 0, int(rng.integers(25, 80)))
    vanishing, spread = side * rng.uniform(0.2, 0.8), rng.uniform(2, 4)
    for x in np.linspace(-side, 2 * side, int(rng.integers(10, 30))):
        draw.line((vanishing + (x - vanishing) / spread, horizon, x, side), fill=colour, width=2)
    if rng.uniform() < 0.5:  # tiles
        for step in range(1, 5):
            y = horizon + (side - horizon) * (step / 4) ** 1.7
            draw.line((0, y, side, y), fill=colour, width=2)


def _draw_furniture(draw: ImageDraw.ImageDraw, side: int, horizon: int, rng: np.random.Generator) -> None:
    kind = rng.integers(5)
    x, width = side * rng.uniform(-0.1, 1.0), side * rng.uniform(0.08, 0.3)
    colour, dark = (*_tone(rng, 40, 220, 60), 255), (0, 0, 0, 90)
    if kind == 0:  # picture or window
        y, height = side * rng.uniform(0.02, 0.3), side * rng.uniform(0.08, 0.28)
        draw.rectangle((x, y, x + width, y + height), fill=colour, outline=dark, width=3)
        if rng.uniform() < 0.5:
            draw.line((x + width / 2, y, x + width / 2, y + height), fill=dark, width=3)
            draw.line((x, y + height / 2, x + width, y + height / 2), fill=dark, width=3)
    elif kind == 1:  # cupboard with doors
        top, bottom = horizon - side * rng.uniform(0.15, 0.5), horizon + side * rng.uniform(0.0, 0.06)
        draw.rectangle((x, top, x + width, bottom), fill=colour, outline=dark, width=2)
        for share in (0.33, 0.66):
            draw.line((x, top + share * (bottom - top), x + width, top + share * (bottom - top)), fill=dark, width=2)
    elif kind == 2:  # shelf with books
        y, at = side * rng.uniform(0.15, 0.45), x
        while at < x + width:
            thick, tall = side * rng.uniform(0.012, 0.035), side * rng.uniform(0.05, 0.09)
            draw.rectangle((at, y - tall, at + thick, y), fill=(*_tone(rng, 40, 200, 70), 255))
            at += thick + 1
        draw.rectangle((x, y, x + width, y + side * 0.012), fill=colour)
    elif kind == 3:  # plant in a pot
        y, size = horizon + side * rng.uniform(0.0, 0.05), side * rng.uniform(0.04, 0.09)
        green = (int(rng.integers(20, 90)), int(rng.integers(80, 150)), int(rng.integers(20, 80)), 255)
        for angle in rng.uniform(-1.1, 1.1, 9):
            draw.line((x, y - size, x + 2 * size * np.sin(angle), y - size - 2.2 * size * np.cos(angle)), green, 5)
        draw.polygon([(x - size / 2, y - size), (x + size / 2, y - size), (x + size / 3, y), (x - size / 3, y)], colour)
    else:  # lamp
        y, size = side * rng.uniform(0.15, 0.45), side * rng.uniform(0.03, 0.07)
        draw.line((x, y, x, horizon), fill=(40, 40, 40, 255), width=3)
        draw.polygon([(x - size, y), (x + size, y), (x + size / 2, y - size), (x - size / 2, y - size)], colour)


def draw_seat(image: Image.Image, body: Body, camera: Camera, back: bool, colour: Colour) -> None:
    """Draw a chair (with ``back``) or a stool that fits the body when its feet are at the origin."""
    draw = ImageDraw.Draw(image)
    top, middle = 0.04 + body.shin - 0.065 * body.girth, -body.thigh - 0.01
    dark = (colour[0] * 2 // 3, colour[1] * 2 // 3, colour[2] * 2 // 3)
    thick = max(2, round(0.03 * camera.scale))

    def at(x: float, y: float, z: float) -> tuple[float, float]:
        return camera.project((x * body.height, y * body.height, z * body.height))[:2]

    rear, front = middle - 0.12, middle + 0.12
    for x in (-0.14, 0.14):
        for z in (rear, front):
            draw.line((*at(x, top, z), *at(x, 0, z)), fill=dark, width=thick)
    if back:
        for x in (-0.14, 0.14):
            draw.line((*at(x, top, rear), *at(x, top + 0.34, rear - 0.03)), fill=dark, width=thick)
        corners = [(-0.14, 0.16, -0.015), (0.14, 0.16, -0.015), (0.14, 0.34, -0.03), (-0.14, 0.34, -0.03)]
        draw.polygon([at(x, top + y, rear + z) for x, y, z in corners], fill=colour, outline=dark)
    corner = [(-0.16, rear - 0.02), (0.16, rear - 0.02), (0.16, front + 0.02), (-0.16, front + 0.02)]
    for low, high in zip(corner, corner[1:] + corner[:1]):
        edge = [at(x, y, z) for y, (x, z) in ((top, low), (top, high), (top - 0.035, high), (top - 0.035, low))]
        draw.polygon(edge, fill=dark)
    draw.polygon([at(x, top, z) for x, z in corner], fill=colour)


def draw_shadow(image: Image.Image, feet: list[tuple[float, float]], reach: float) -> None:
    """Draw a soft dark spot under each of the given pixels; ``reach`` is its half width in pixels."""
    draw = ImageDraw.Draw(image, "RGBA")
    for share, alpha in ((1.0, 35), (0.7, 45)):
        for x, y in feet:
            rx, ry = reach * share, 0.3 * reach * share
            draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(0, 0, 0, alpha))


@dataclass(frozen=True)
class Light:
    """The effect of light and sensor on a clean picture."""

    falloff: Image.Image  # RGB, multiplied
    curve: list[int]  # 3 x 256 values: gain, gamma and white balance
    grain: Image.Image  # RGB noise around 128, larger than the picture

    def expose(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the picture as a camera would record it; each call draws new noise."""
        lit = ImageChops.multiply(image, self.falloff).point(self.curve)
        x, y = rng.integers(0, self.grain.width - image.width + 1, 2).tolist()
        return ImageChops.add(lit, self.grain.crop((x, y, x + image.width, y + image.height)), 1, -128)


def make_light(side: int, rng: np.random.Generator) -> Light:
    """Draw a light: vignette, a shade from one side, gain, gamma, white balance and noise."""
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    slope = rng.uniform(-0.2, 0.2, 2)
    falloff = 1 - rng.uniform(0, 0.3) * (x**2 + y**2) / 2 + slope[0] * x + slope[1] * y
    falloff = np.clip(falloff / falloff.max(), 0, 1)
    levels = np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.3)
    curve = [levels * gain for gain in rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)]
    grain = rng.normal(128, rng.uniform(1, 7), (side + 32, side + 32, 3))
    return Light(
        Image.fromarray((falloff * 255).astype(np.uint8)).convert("RGB"),
        np.clip(np.concatenate(curve) * 255, 0, 255).astype(int).tolist(),
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)),
    )
