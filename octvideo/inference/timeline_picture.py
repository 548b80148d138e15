"""Draw the segments of a video as a picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octvideo.fonts import font_for
from octvideo.inference.overlay import label_colors

if TYPE_CHECKING:
    from octvideo.inference.timeline import Segment

__all__ = ["draw_timeline"]

_LONGEST = 40  # letters of a label and of the title
_HATCH = "////"
_EDGE: dict[str, Any] = {"edgecolor": "#303640", "linewidth": 0.6}


def draw_timeline(segments: Sequence[Segment], title: str) -> bytes:
    """Return a PNG: a row for each label, a bar for each segment, time in seconds. What is not sure is hatched."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    colors = label_colors(segments)
    rows = {label: row for row, label in enumerate(colors)}
    title = title if len(title) <= _LONGEST else f"...{title[3 - _LONGEST :]}"
    names = [label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..." for label in rows]
    families = list(dict.fromkeys(font_for(text).name for text in ("", title, *names)))
    style = {
        **{"font.family": families, "font.size": 10, "axes.edgecolor": "#808690", "grid.color": "#d0d4da"},
        **{"text.parse_math": False, "hatch.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False},
    }
    # The default style: a user's own may need LaTeX. A letter that no font has is a box; `font_for` has warned of it.
    with plt.style.context(["default", style]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure, axes = plt.subplots(figsize=(9, 1.3 + 0.32 * len(rows)), layout="constrained")
        try:
            for label, row in rows.items():
                for sure in (True, False):
                    bars = [
                        (s.start, s.end - s.start)
                        for s in segments
                        if s.label == label and (s.sure is not False) == sure
                    ]
                    face, hatch = (colors[label], None) if sure else ("white", _HATCH)
                    axes.broken_barh(bars, (row - 0.35, 0.7), facecolor=face, hatch=hatch, **_EDGE)
            axes.set_yticks(range(len(names)), names)
            axes.set(xlabel="time, s", xlim=(0, 1.003 * segments[-1].end), ylim=(len(names) - 0.4, -0.6))
            axes.set_title(title, loc="left", fontsize=10)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            if any(segment.sure is False for segment in segments):
                key = [Patch(facecolor="white", hatch=_HATCH, label="not sure", **_EDGE)]
                axes.legend(handles=key, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)
            picture = io.BytesIO()
            figure.savefig(picture, dpi=110, format="png")
        finally:
            plt.close(figure)
    return picture.getvalue()
