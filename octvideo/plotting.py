"""The one style of pictures that matplotlib draws, with letters of every script."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from octvideo.fonts import font_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GREY", "drawing", "letters", "line_style", "shortened", "to_png"]

GREY = "#808690"  # readable on a light page and on a dark one
# From dark to light, so that they differ in grey too.
_COLORS = ("#1f3a70", "#c2452d", "#2e9c8f", "#e0a528")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")
_STYLE: dict[str, Any] = {
    **{"font.size": 9, "grid.alpha": 0.25, "axes.grid": True, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
}


@contextmanager
def letters(names: Iterable[str]) -> Iterator[None]:
    """Make matplotlib write names as they are. A "$" in a name is a "$".

    A letter that no font has is drawn as a box; ``font_for`` has warned of it.
    """
    import matplotlib

    log = logging.getLogger("matplotlib.font_manager")  # it warns of fonts without a normal weight
    families = [*matplotlib.rcParams["font.family"], *dict.fromkeys(font_for(name).name for name in names)]
    with matplotlib.rc_context({"text.parse_math": False, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


@contextmanager
def drawing(names: Iterable[str] = (), style: Mapping[str, Any] | None = None) -> Iterator[ModuleType]:
    """Yield ``matplotlib.pyplot`` in the common style, whatever the user's own is; close the figures at the end.

    Args:
        names: texts that are written, in any script.
        style: further settings of matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    own: Any = dict(style or {})
    with plt.style.context(["default", _STYLE]), letters(names), matplotlib.rc_context(own):
        try:
            yield plt
        finally:
            for number in set(plt.get_fignums()) - {*before}:
                plt.close(number)


def line_style(number: int) -> dict[str, Any]:
    """Return the colour, line and marker of the series with this number; they differ without colours too."""
    turn = number // len(_COLORS)
    return {
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": _LINES[(number + turn) % len(_LINES)],
        "marker": _MARKERS[(number + turn) % len(_MARKERS)],
    }


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def shortened(name: str, letters: int) -> str:
    """Return a name of at most ``letters`` letters: a longer one ends in "..."."""
    return name if len(name) <= letters else f"{name[: letters - 3]}..."
