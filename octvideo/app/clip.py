"""The tab *Clip*: the answer for an uploaded clip, its annotated copy and its timeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import gradio

from octvideo.app.markup import TOP_K, answer, note, problem, timeline
from octvideo.app.networks import ONE_AT_A_TIME, Networks
from octvideo.app.uploads import LIMITS, check_on_upload, check_upload, message
from octvideo.errors import UserError
from octvideo.inference import Prediction, Predictor
from octvideo.inference.annotated_video import annotate_video
from octvideo.inference.timeline import Timeline, predict_timeline

__all__ = ["build_clip_tab"]

# A click on a segment moves the annotated video.
_JUMP = """
element.addEventListener("click", (event) => {
  const segment = event.target.closest("[data-time]");
  const video = document.querySelector("#annotated video");
  if (!segment || !video) return;
  video.currentTime = Number(segment.dataset.time);
  video.play();
});
"""


def build_clip_tab(networks: Networks, model: gradio.Dropdown, examples: list[str]) -> None:
    """Build the content of the tab, and the API ``/predict``: a clip to its classes and its annotated copy.

    Args:
        networks: the networks.
        model: the list from which one is chosen.
        examples: video files.
    """

    def show(path: str | None, name: str) -> Iterator[tuple[str, str | None, str]]:
        if path is None:
            yield problem("Choose a clip first."), None, ""
            return
        try:
            clip, predictor = Path(path), networks.predictor(name)
            check_upload(clip)
            found = predictor.predict(clip, TOP_K)
            shown = answer(found, predictor.is_sure(found))
            yield shown, None, note("Predicting over time…")
            over_time = predict_timeline(clip, predictor)
            yield shown, _annotated(clip, over_time, predictor), timeline(over_time.segments)
        except (OSError, UserError) as error:
            yield problem(message(error, path)), None, ""

    def predict(path: str | None, name: str) -> tuple[dict[str, float] | str, str]:
        if path is None:
            raise gradio.Error("no clip", print_exception=False)
        try:
            clip, predictor = Path(path), networks.predictor(name)
            check_upload(clip)
            found = predictor.predict(clip, TOP_K)
            video = _annotated(clip, predict_timeline(clip, predictor), predictor)
            return _labels(found, predictor.is_sure(found)), video
        except (OSError, UserError) as error:
            raise gradio.Error(message(error, path), print_exception=False) from None

    with gradio.Row():
        with gradio.Column():
            clip = gradio.Video(label="Clip", sources=["upload"], elem_id="clip", height=320)
            gradio.HTML(note(LIMITS), apply_default_css=False)
            button = gradio.Button("Predict", variant="primary")
            gradio.Examples(examples, clip, label="Rendered examples")
        with gradio.Column():
            found = gradio.HTML(note("The answer comes here."), apply_default_css=False, elem_id="answer")
            annotated = gradio.Video(label="Annotated", elem_id="annotated", interactive=False, height=400)
    segments = gradio.HTML(apply_default_css=False, elem_id="timeline", js_on_load=_JUMP)
    check_on_upload(clip, found)
    button.click(
        show,
        [clip, model],
        [found, annotated, segments],
        api_visibility="private",
        show_progress_on=[found],
        concurrency_id=ONE_AT_A_TIME,
    )
    api = gradio.Button(visible=False)
    labels = gradio.Label(visible=False)
    api.click(predict, [clip, model], [labels, annotated], api_name="predict", concurrency_id=ONE_AT_A_TIME)


def _annotated(clip: Path, over_time: Timeline, predictor: Predictor) -> str:
    """Write the annotated clip below the folder of uploads, from which Gradio serves files, and return its path."""
    output = Path(tempfile.mkdtemp(dir=clip.parent)) / "annotated.mp4"
    annotate_video(clip, output, over_time, predictor, top_k=TOP_K)
    return str(output)


def _labels(found: list[Prediction], sure: bool | None) -> dict[str, float] | str:
    return f"not sure (closest: {found[0].label})" if sure is False else dict(found)
