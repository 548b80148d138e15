from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
from octvideo.app import uploads
from octvideo.app.camera import nearest_frames
from octvideo.app.markup import answer, timeline
from octvideo.errors import UserError
from octvideo.inference import Prediction
from octvideo.inference.timeline import Segment


def test_good_clip_passes(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    uploads.check_upload(make_video(tmp_path / "good.mp4", np.zeros((4, 32, 32, 3), np.uint8)))


def test_long_and_large_clips_are_refused(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    long = make_video(tmp_path / "long.mp4", np.zeros((9001, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=r"^long.mp4: 9,001 frames \(6 min 0 s\) are too long, at most 9,000"):
        uploads.check_upload(long)
    wide = make_video(tmp_path / "wide.mp4", np.zeros((2, 16, 4112, 3), np.uint8))
    with pytest.raises(UserError, match="^wide.mp4: 4112 x 16 pixels are too large"):
        uploads.check_upload(wide)
    huge = tmp_path / "huge.mp4"
    with huge.open("wb") as file:
        file.truncate(uploads.MAX_BYTES + 1)
    with pytest.raises(UserError, match="^huge.mp4: larger than 2 GB"):
        uploads.check_upload(huge)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "moving.mp4"])
def test_moving_pictures_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.new("L", (64, 64), 80 * number) for number in range(3)]
    kind = "GIF" if name.endswith("mp4") else None
    frames[0].save(tmp_path / name, format=kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=f"^{name}: a picture"):
        uploads.check_upload(tmp_path / name)


def test_window_takes_nearest_frames() -> None:
    assert nearest_frames(np.array([0.0, 0.08, 0.16]), 5).tolist() == [0, 0, 1, 1, 2]
    assert nearest_frames(np.array([0.0, 0.04, 0.2]), 6).tolist() == [0, 1, 1, 1, 2, 2]
    assert nearest_frames(np.array([3.0]), 4).tolist() == [0, 0, 0, 0]


def test_class_names_are_escaped() -> None:
    name = "<img src=x onerror=alert(1)>"
    for sure in (True, False):
        segments = [Segment(0.0, 1.0, name, 0.9, True), Segment(1.0, 2.5, "b", 0.2, False)]
        for text in (answer([Prediction(name, 0.9)], sure), timeline(segments)):
            assert "<img" not in text and "&lt;img" in text
