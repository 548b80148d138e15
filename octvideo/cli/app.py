"""``demo/app.py``: predict uploaded clips in the browser."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import positive_int
from octvideo.cli.predict import add_model_arguments, describe, predictor_from
from octvideo.errors import UserError, one_line

if TYPE_CHECKING:
    from octvideo.inference import Predictor

__all__ = ["build_app", "main"]

_TOP_K = 5


def build_app(predictor: Predictor) -> Any:
    """Build the page: upload a clip, see the best classes and the annotated video. Its API name is ``/predict``.

    Raises:
        UserError: gradio is not installed.
    """
    # Gradio reads this on import; without it, it sends usage data.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise UserError("gradio is not installed; install it with: pip install 'octvideo[app]'") from None
    from octvideo.inference.annotated_video import annotate_video
    from octvideo.inference.timeline import predict_timeline

    def predict(video: str | None) -> tuple[dict[str, float] | str, str]:
        if video is None:
            raise gradio.Error("Choose a video first.")
        try:
            folder = Path(tempfile.mkdtemp(dir=Path(video).parent))  # in the folder that gradio serves files from
            found = predictor.predict(video, _TOP_K)
            timeline = predict_timeline(video, predictor)
            annotate_video(Path(video), folder / "annotated.mp4", timeline, predictor, top_k=_TOP_K)
        except (OSError, UserError) as error:
            raise gradio.Error(str(error).replace(video, Path(video).name)) from None
        # A text in place of classes and bars: they would read as an answer.
        unsure = predictor.is_sure(found) is False
        answer = f"not sure (closest: {found[0].label})" if unsure else dict(found)
        return answer, str(folder / "annotated.mp4")

    # Uploads older than a day are removed, once an hour.
    with gradio.Blocks(title="octvideo", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gradio.Markdown(f"# octvideo\nWhat happens in a clip? {describe(predictor)}.")
        with gradio.Row():
            with gradio.Column():
                clip = gradio.File(label="Clip", file_types=["video"], type="filepath")
                button = gradio.Button("Predict", variant="primary")
                labels = gradio.Label(label="Actions", num_top_classes=_TOP_K)
            annotated = gradio.Video(label="Over time", autoplay=True)
        button.click(predict, clip, [labels, annotated], api_name="predict", concurrency_limit=1)
    return page


def serve(page: Any, host: str, port: int) -> None:
    """Serve the page in the background.

    Raises:
        UserError: the port is taken.
    """
    import gradio

    # System fonts: the page works without a connection.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=["api"],
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: cannot be used ({one_line(error)})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: gradio is missing, the port is taken, bad weights or configuration.
    """
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=positive_int, default=7860)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    page = build_app(predictor_from(arguments, math.inf))
    serve(page, arguments.host, arguments.port)
    print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0
