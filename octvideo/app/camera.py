"""The tab *Camera*: live answers from the browser's camera.

The browser keeps the frames of the last seconds, and sends them when no answer is under way (``assets/camera.js``). So
nothing waits in a queue: frames that get old meanwhile are dropped. The server keeps nothing between two requests ::

    browser    f f f f f f f f f f f f f f        f: a frame, every 80 ms
    request    [--- window ---]                   answer 1
                         [--- window ---]         answer 2, as soon as answer 1 is there
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import gradio
import numpy as np
from PIL import Image

from octvideo.app.markup import TOP_K, answer, problem
from octvideo.app.networks import Networks
from octvideo.errors import UserError, one_line

__all__ = ["build_camera_tab", "nearest_frames"]

_FPS = 25  # frames per second of the window: a usual rate of the videos that networks are trained on
_MAX_FRAMES, _MAX_SIDE = 128, 1024  # of a request; the browser sends less
_JS = Path(__file__).parents[1] / "assets" / "camera.js"
_TEMPLATE = """
<div class="camera">
  <div class="view"><video playsinline muted></video><p class="note">The pictures stay in the browser and in this
  server's memory.</p></div>
  <div class="seen">
    <button type="button" class="start">Start the camera</button>
    <div class="found" aria-live="polite"></div>
    <p class="latency note"></p>
  </div>
</div>
"""


def build_camera_tab(networks: Networks, model: gradio.Dropdown) -> None:
    """Build the content of the tab. ``model`` is the list from which the network is chosen."""
    one_at_a_time = Lock()

    def answer_frames(request: dict[str, Any]) -> dict[str, Any]:
        """Return HTML, and the seconds of video that the network wants to see."""
        try:
            predictor = networks.predictor(str(request["model"]), camera=True)
            times, pictures = _decode(request["frames"])
            seconds = predictor.span / _FPS
            if times[-1] - times[0] < seconds - 2 / _FPS:
                return {"seconds": seconds, "html": ""}
            with one_at_a_time:
                crops = [predictor.crop(picture) for picture in pictures]
                window = [crops[place] for place in nearest_frames(times, predictor.span)]
                found = predictor.predict_window(window, TOP_K)
            return {"seconds": seconds, "html": answer(found, predictor.is_sure(found))}
        except UserError as error:
            return {"problem": problem(one_line(error))}
        except (KeyError, TypeError, ValueError, OSError, Image.DecompressionBombError):
            return {"problem": problem("These are no frames of a camera.")}

    view = gradio.HTML(
        value=networks.first,
        html_template=_TEMPLATE,
        js_on_load=_JS.read_text(encoding="utf-8"),
        server_functions=[answer_frames],
        apply_default_css=False,
        elem_id="camera",
    )
    model.change(lambda name: name, model, view, api_visibility="private", show_progress="hidden")


def _decode(frames: Sequence[tuple[float, str]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the times of JPEG frames in seconds ``(n,)``, and the frames: uint8 ``(H, W, 3)``.

    Raises:
        ValueError, OSError and others: they are not as camera.js sends them.
    """
    if not 0 < len(frames) <= _MAX_FRAMES:
        raise ValueError("too many frames, or none")
    pictures = []
    for _, content in frames:
        image = Image.open(io.BytesIO(base64.b64decode(content)), formats=["JPEG"])
        if max(image.size) > _MAX_SIDE:
            raise ValueError("a frame is too large")
        pictures.append(np.array(image.convert("RGB")))
    return np.array([float(time) for time, _ in frames]), pictures


def nearest_frames(times: np.ndarray, span: int) -> np.ndarray:
    """Return which frame is shown at each of the ``span`` moments of a window that ends with the last frame.

    Cameras in browsers have no constant rate; at 25 frames per second ::

        times 0.00 0.08 0.16, span 5 -> 0 0 1 1 2      (moments 0.00 0.04 0.08 0.12 0.16)
    """
    moments = times[-1] - np.arange(span - 1, -1, -1) / _FPS
    return np.searchsorted((times[1:] + times[:-1]) / 2, moments - 1e-6)
