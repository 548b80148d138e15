"""Build the page from its tabs, and serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio

from octvideo.app.camera import build_camera_tab
from octvideo.app.clip import build_clip_tab
from octvideo.app.compare import build_compare_tab
from octvideo.app.markup import knowledge, problem
from octvideo.app.networks import DOWNLOADS, ONE_AT_A_TIME, Networks, facts
from octvideo.app.uploads import MAX_BYTES
from octvideo.errors import UserError, one_line

__all__ = ["build_page", "serve"]

_ASSETS = Path(__file__).parents[1] / "assets"
_EXAMPLES = ("example_jack.mp4", "example_bend_jack.mp4", "example_unknown.mp4")
# A video that the browser cannot play (AVI, H.265) can be predicted. Gradio's preview would call it an error.
_HEAD = """<script>
document.addEventListener("error", (event) => { if (event.target.tagName === "VIDEO") event.stopPropagation(); }, true);
</script>"""


def build_page(networks: Networks) -> gradio.Blocks:
    """Build the page."""
    examples = [str(_ASSETS / name) for name in _EXAMPLES]

    def know(name: str) -> str:
        try:
            return knowledge(name, facts(name), networks.predictor(name))
        except (OSError, UserError) as error:
            return problem(one_line(error))

    # Uploads older than a day are removed, once an hour.
    with gradio.Blocks(title="octvideo", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        with gradio.Row(elem_id="top"):
            gradio.Markdown("# octvideo\nActions in video, by networks with octave convolution.")
            model = gradio.Dropdown(networks.names(), value=networks.first, label="Network", info=DOWNLOADS)
        with gradio.Tabs():
            with gradio.Tab("Clip"):
                build_clip_tab(networks, model, examples)
            with gradio.Tab("Camera"):
                build_camera_tab(networks, model)
            with gradio.Tab("Compare"):
                build_compare_tab(networks, examples)
            with gradio.Tab("Classes"):
                known = gradio.HTML(know(networks.first), apply_default_css=False, elem_id="known")
        model.change(know, model, known, concurrency_id=ONE_AT_A_TIME, api_visibility="private")
    return page.queue(max_size=16)


def serve(page: Any, host: str, port: int) -> None:
    """Serve the page in the background.

    Raises:
        UserError: the port is in use.
    """
    # System fonts: the page works without a connection.
    theme = gradio.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        color_accent="*primary_600",
    )
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=MAX_BYTES,
            theme=theme,
            css_paths=_ASSETS / "page.css",
            head=_HEAD,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
        )
    except OSError:  # Gradio's message names a variable that octvideo does not read
        raise UserError(f"--port {port}: cannot be used; choose another") from None
