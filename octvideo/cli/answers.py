"""Print predictions as text or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from octvideo.cli import to_json

if TYPE_CHECKING:
    from octvideo.inference import Prediction

__all__ = ["show"]


def show(
    record: dict,
    title: str,
    predictions: Sequence[Prediction],
    sure: bool | None,
    as_json: bool,
    *,
    compact: bool = False,
) -> None:
    """Print an answer, in one write: a reader of its first line (``| head -1``) may be gone before a second one.

    Args:
        record: what JSON says before it, such as the name of the video.
        title: what a text says before it.
        predictions: best first.
        sure: see ``Predictor.is_sure``.
        as_json: print an object in one line, not a text.
        compact: print the text in one line, not with bars.
    """
    if as_json:
        found = [{"label": label, "score": round(score, 6)} for label, score in predictions]
        print(to_json(record | {"sure": sure, "predictions": found}), flush=True)
    elif compact:
        found_text = " | ".join(f"{label} {100 * score:.1f} %" for label, score in predictions)
        print(title, f"not sure (closest: {found_text})" if sure is False else found_text, flush=True)
    else:
        lines = [title, f"  not sure (closest: {predictions[0].label})"] if sure is False else [title]
        lines += [f"  {100 * score:5.1f} %  {'#' * round(20 * score):20}  {label}" for label, score in predictions]
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
