"""Draw strips of images below each other, with a heading each and a caption below each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from octvideo.plotting import drawing, to_png

__all__ = ["Box", "Cell", "Strip", "draw_sheet", "some"]

_HEIGHT = 92.0  # of an image, points
_GAP, _MARGIN = 5.0, 10.0
_TITLE, _HEADING, _CAPTION = 11.0, 9.0, 7.0  # sizes of letters
_LINE = 1.5  # height of a line per size
_DPI = 144
_BOX = "#e0a528"


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Cell(NamedTuple):
    """An image of a strip.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        caption: the line below it.
        boxes: what is framed.
        scale: its height as a share of the strip's.
    """

    image: np.ndarray
    caption: str = ""
    boxes: Sequence[Box] = ()
    scale: float = 1.0


class Strip(NamedTuple):
    """Images side by side; ``heading`` may have several lines."""

    heading: str
    cells: Sequence[Cell]


def some(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers below ``count``, evenly spread, first and last included.

    >>> some(8, 3), some(2, 3)
    ([0, 4, 7], [0, 1])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def draw_sheet(title: str, strips: Sequence[Strip]) -> bytes:
    """Return a PNG that is as wide as its widest strip or text ::

    title
    heading of a strip
    +-------+ +-------+ +-------+
    |       | |       | |       |
    +-------+ +-------+ +-------+
    caption   caption   caption
    heading of the next one
    ...
    """
    texts = [title, *(strip.heading for strip in strips), *(cell.caption for strip in strips for cell in strip.cells)]
    with drawing(texts) as plt:
        figure = plt.figure(dpi=72)  # one pixel is one point, as long as it is measured
        captions = [[_width(figure, cell.caption, _CAPTION) for cell in strip.cells] for strip in strips]
        columns = [
            [max(_size(cell)[0] / cell.scale, wide + _GAP) + _GAP for cell, wide in zip(strip.cells, widths)]
            for strip, widths in zip(strips, captions)
        ]
        headings = [_width(figure, line, _HEADING) for strip in strips for line in strip.heading.split("\n")]
        width = max([_width(figure, title, _TITLE), *headings, *map(sum, columns)]) + 2 * _MARGIN
        height = 2 * _MARGIN + _TITLE * _LINE + sum(map(_strip_height, strips))
        figure.set_size_inches(width / 72, height / 72)
        page = figure.add_axes((0, 0, 1, 1))
        page.set(xlim=(0, width), ylim=(height, 0))
        page.set_axis_off()
        y = _MARGIN
        page.text(_MARGIN, y, title, fontsize=_TITLE, va="top")
        y += _TITLE * _LINE
        for strip, spots in zip(strips, columns):
            page.text(_MARGIN, y + 4, strip.heading, fontsize=_HEADING, va="top", linespacing=1.25)
            top = y + 4 + _heading_height(strip)
            x = _MARGIN
            for cell, spot in zip(strip.cells, spots):
                _draw_cell(page, cell, x, top)
                x += spot
            y += _strip_height(strip)
        page.set(xlim=(0, width), ylim=(height, 0))  # images have changed them
        return to_png(figure, _DPI)


def _draw_cell(page: Any, cell: Cell, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    width, height = _size(cell)
    page.imshow(cell.image, extent=(x, x + width, y + height, y), aspect="auto")
    pixel = height / cell.image.shape[0]
    for box in cell.boxes:
        corner = (x + box.left * pixel, y + box.top * pixel)
        page.add_patch(
            Rectangle(corner, box.width * pixel, box.height * pixel, fill=False, edgecolor=_BOX, linewidth=1.2)
        )
    page.text(x, y + height + 2, cell.caption, fontsize=_CAPTION, va="top")


def _width(figure: Any, text: str, size: float) -> float:
    """Return the width of a line, points."""
    drawn = figure.text(0, 0, text, fontsize=size)
    width = drawn.get_window_extent().width
    drawn.remove()
    return width


def _size(cell: Cell) -> tuple[float, float]:
    """Return the width and height of an image on the page, points."""
    height = _HEIGHT * cell.scale
    return height * cell.image.shape[1] / cell.image.shape[0], height


def _heading_height(strip: Strip) -> float:
    return _HEADING * _LINE * len(strip.heading.split("\n"))


def _strip_height(strip: Strip) -> float:
    tallest = max((_size(cell)[1] for cell in strip.cells), default=0.0)
    caption = _CAPTION * _LINE if any(cell.caption for cell in strip.cells) else 0.0
    return _heading_height(strip) + tallest + caption + 2 * _GAP
