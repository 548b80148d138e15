"""HTML of answers, timelines and tables. Every text in it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import ImageColor

from octvideo.app.networks import Facts
from octvideo.inference import Prediction, Predictor
from octvideo.inference.overlay import label_colors
from octvideo.inference.timeline import Segment

__all__ = ["TOP_K", "answer", "knowledge", "note", "problem", "timeline"]

TOP_K = 5
_UNSURE = "#64748b"


def note(text: str) -> str:
    """Return a quiet line."""
    return f'<p class="note">{escape(text)}</p>'


def problem(text: str) -> str:
    """Return a message about what went wrong."""
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def answer(predictions: Sequence[Prediction], sure: bool | None) -> str:
    """Return the best class as a headline, and a bar for each prediction. Muted if the network is not sure."""
    best = predictions[0].label
    headline = f"Not sure <small>closest: {escape(best)}</small>" if sure is False else escape(best)
    rows = "".join(_bar(label, score) for label, score in predictions)
    return f'<div class="answer{" unsure" * (sure is False)}"><p class="headline">{headline}</p>{rows}</div>'


def _bar(label: str, score: float) -> str:
    percent = f"{100 * score:.0f} %"
    return (
        f'<div class="bar"><span class="label">{escape(label)}</span><span class="percent">{percent}</span>'
        f'<span class="track"><span style="width:{100 * min(1.0, score):.1f}%"></span></span></div>'
    )


def timeline(segments: Sequence[Segment]) -> str:
    """Return a strip of segments and a list of them. A click on either moves the video: ``data-time`` has the second.

    ::

        [bend      ][jack        ][not sure]
        0:00.0  bend      81 %
        0:03.2  jack      76 %
    """
    end = segments[-1].end or 1.0
    colors = label_colors(segments)  # as in the annotated video
    strip, rows = [], []
    for segment in segments:
        unsure = segment.sure is False
        color = _UNSURE if unsure else colors[segment.label]
        label = "not sure" if unsure else segment.label
        time, width = _clock(segment.start), 100 * (segment.end - segment.start) / end
        percent = "" if unsure else f"{100 * segment.score:.0f} %"
        jump = f'type="button" data-time="{segment.start:.3f}"'
        strip.append(
            f'<button {jump} style="width:{width:.3f}%;background:{color};color:{_ink(color)}" '
            f'title="{escape(label)}, from {time}">'
            f"<span>{escape(label)}</span></button>"
        )
        rows.append(
            f'<li><button {jump}><span class="clock">{time}</span><span class="dot" style="background:{color}"></span>'
            f'<span class="label">{escape(label)}</span><span class="percent">{percent}</span></button></li>'
        )
    return f'<div class="timeline"><div class="strip">{"".join(strip)}</div><ol>{"".join(rows)}</ol></div>'


def _ink(color: str) -> str:
    red, green, blue = ImageColor.getrgb(color)[:3]
    return "#12141b" if 0.3 * red + 0.59 * green + 0.11 * blue > 125 else "#ffffff"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def knowledge(name: str, about: Facts, predictor: Predictor) -> str:
    """Return what a network knows: where its weights come from, its threshold, and its classes."""
    threshold = predictor.threshold
    sure = "none: it is never “not sure”" if threshold is None else f"{100 * threshold:.1f} %; below it is “not sure”"
    rows = {
        "Network": name,
        "Weights": about.weights,
        "Trained on": about.trained_on,
        "Threshold": sure,
        "Runs with": predictor.backend,
        "Classes": str(len(predictor.classes)),
    }
    table = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows.items())
    classes = "".join(f"<li>{escape(label)}</li>" for label in predictor.classes)
    return f'<div class="knowledge"><dl>{table}</dl><ul>{classes}</ul></div>'
