from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from octvideo.cli import app as command
from octvideo.cli import run
from octvideo.inference import Predictor

CLIP = "clips/actions/mmaction2_part_0.mp4"


def test_posted_clip_comes_back_with_labels(app: Any, data: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(app.address, verbose=False, download_files=tmp_path, analytics_enabled=False)
    clip = data / CLIP
    labels, video = client.predict(handle_file(clip), api_name="/predict")
    predictor = Predictor(model="oct_i3d_small", backend="torch", device="cpu", threshold=0)
    assert labels["label"] == f"not sure (closest: {predictor.predict(clip)[0].label})"
    path = video["video"] if isinstance(video, dict) else video
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == 32
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(Exception, match=r"bad\.mp4: cannot be decoded"):
        client.predict(handle_file(tmp_path / "bad.mp4"), api_name="/predict")
    assert "Traceback" not in app.log.read_text(encoding="utf-8")


def test_port_in_use_is_one_line(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.main, ["--port", str(app.port)]) == 2
    port = f"--host 127.0.0.1 --port {app.port}"
    assert capsys.readouterr().err == f"error: {port}: cannot be used (Address already in use); choose another\n"


def test_impossible_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.main, ["--host", "192.0.2.1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --host 192.0.2.1 --port 7860: cannot be used (") and error.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        command.main(["--port", "70000"])
    assert caught.value.code == 2
