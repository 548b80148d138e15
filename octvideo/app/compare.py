"""The tab *Compare*: an octave network and its vanilla twin on one clip."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio
from torch import Tensor

from octvideo.app.markup import TOP_K, answer, note, problem
from octvideo.app.networks import DOWNLOADS, ONE_AT_A_TIME, Networks, trained_models
from octvideo.app.uploads import check_on_upload, check_upload, message
from octvideo.config import with_keys
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.models import build_model
from octvideo.models.zoo import NETWORKS, warm_start, weights_file
from octvideo.octave.complexity import count

__all__ = ["build_compare_tab", "measure"]

_ALPHAS = (0.125, 0.25, 0.5, 0.75)
_ROUNDS, _SECONDS = 5, 20.0  # measure this often, or for this long


class Side(NamedTuple):
    """One of the two networks. ``trained``: its weights were trained at its alpha; others give no answer."""

    title: str
    predictor: Predictor
    multiply_adds: int
    trained: bool


def build_compare_tab(networks: Networks, examples: list[str]) -> None:
    """Build the content of the tab."""
    sides = lru_cache(2)(lambda name, alpha: (_side(networks, f"oct_{name}", alpha), _side(networks, name, 0.0)))

    def compare(path: str | None, name: str, alpha: float) -> Iterator[tuple[str, str]]:
        if path is None:
            yield problem("Choose a clip first."), ""
            return
        try:
            check_upload(Path(path))
            pair = sides(name, alpha)
            views = [side.predictor.read(path) for side in pair]
            answers = [_answer(side, clips) for side, clips in zip(pair, views, strict=True)]
            yield note("Measuring…"), _cards(pair, answers, ["…", "…"])
            times = measure([side.predictor for side in pair], views)
            yield _summary(pair, times, len(views[0])), _cards(pair, answers, [f"{1000 * t:,.0f} ms" for t in times])
        except (OSError, UserError) as error:
            yield problem(message(error, path)), ""

    with gradio.Row():
        with gradio.Column():
            clip = gradio.Video(label="Clip", sources=["upload"], elem_id="compare-clip", height=280)
            gradio.Examples(examples, clip, label="Rendered examples")
        with gradio.Column():
            pairs = [name for name in trained_models() if name in NETWORKS]
            name = gradio.Dropdown(pairs, label="Octave network and its vanilla twin", info=DOWNLOADS)
            alpha = gradio.Dropdown([*_ALPHAS], value=0.5, label="Alpha, the share of low-frequency channels")
            button = gradio.Button("Compare", variant="primary")
            summary = gradio.HTML(apply_default_css=False, elem_id="compare-summary")
    cards = gradio.HTML(apply_default_css=False, elem_id="compared")
    check_on_upload(clip, summary)
    button.click(
        compare,
        [clip, name, alpha],
        [summary, cards],
        concurrency_id=ONE_AT_A_TIME,
        api_visibility="private",
        show_progress_on=[summary],
    )


def _side(networks: Networks, name: str, alpha: float) -> Side:
    network = load_network(model=name)
    cfg = with_keys(network.cfg, {"OCTAVE.ALPHA": alpha})
    return Side(
        title=f"{name}, alpha {alpha:g}" if alpha else name,
        predictor=networks.create(checkpoint=weights_file(name), cfg=cfg),
        multiply_adds=count(build_model(cfg), (1, 3, *network.clip_shape)).multiply_adds,
        trained=not warm_start(name, alpha),
    )


def _answer(side: Side, views: Tensor) -> str:
    found = side.predictor.predict_views(views, TOP_K)
    if not side.trained:
        return note("No answer: its weights are not trained at this alpha. Cost and time do not depend on that.")
    return answer(found, side.predictor.is_sure(found))


def measure(predictors: Sequence[Predictor], views: Sequence[Tensor]) -> list[float]:
    """Return the seconds that each predictor takes for its views ``(V, T, H, W, 3)``: the median of rounds in turn."""
    times: list[list[float]] = [[] for _ in predictors]
    end = time.monotonic() + _SECONDS
    for number in range(_ROUNDS):
        for predictor, clips, taken in zip(predictors, views, times, strict=True):
            start = time.perf_counter()
            predictor.predict_views(clips)
            taken.append(time.perf_counter() - start)
        if number and time.monotonic() > end:
            break
    return [statistics.median(taken) for taken in times]


def _cards(pair: Sequence[Side], answers: Sequence[str], times: Sequence[str]) -> str:
    cards = ""
    for side, found, taken in zip(pair, answers, times, strict=True):
        rows = {"Multiply-adds of a view": f"{side.multiply_adds / 1e9:.2f} billion", "Time for this clip": taken}
        table = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows.items())
        cards += f'<div class="card"><h3>{escape(side.title)}</h3><dl>{table}</dl>{found}</div>'
    return f'<div class="cards">{cards}</div>'


def _summary(pair: Sequence[Side], times: Sequence[float], views: int) -> str:
    octave, vanilla = pair
    cost, time_taken = octave.multiply_adds / vanilla.multiply_adds, times[0] / times[1]
    return note(
        f"Octave compared with vanilla: {100 * cost:.0f} % of the multiply-adds, {100 * time_taken:.0f} % of the time. "
        f"Measured on this clip: {views} views, median of at most "
        f"{_ROUNDS} rounds, {octave.predictor.backend.split(' ')[0]}."
    )
