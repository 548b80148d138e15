from __future__ import annotations

import socket
from pathlib import Path

import av
import pytest

from octvideo.cli.app import build_app, serve
from octvideo.errors import UserError
from octvideo.inference import Predictor


def test_a_posted_clip_comes_back_with_labels(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    predictor = Predictor(checkpoint, device="cpu")
    page = build_app(predictor)
    serve(page, "127.0.0.1", port)
    try:
        client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=tmp_path, analytics_enabled=False)
        clip = data / "clips/actions/mmaction2_part_0.mp4"
        labels, video = client.predict(handle_file(clip), api_name="/predict")
        assert labels["label"] == predictor.predict(clip)[0].label
        assert len(labels["confidences"]) == 5
        path = video["video"] if isinstance(video, dict) else video
        with av.open(path) as container:
            assert sum(1 for _ in container.decode(video=0)) == 32
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        with pytest.raises(Exception, match=r"bad\.mp4.*cannot be decoded"):
            client.predict(handle_file(tmp_path / "bad.mp4"), api_name="/predict")
        with pytest.raises(UserError, match=f"--port {port}"):
            serve(build_app(predictor), "127.0.0.1", port)
    finally:
        page.close()
