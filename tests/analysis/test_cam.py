"""Grad-CAM over time: its sum is the network's answer, and its heat follows what the answer comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from small_network import CLASSES, save_checkpoint, small_cfg

from octvideo.analysis.pictures.cam import heat_of_clip, heat_of_video
from octvideo.analysis.pictures.maps import normalized
from octvideo.cli import run
from octvideo.cli.main import main
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.models import build_model
from octvideo.models.classifier import find_classifier

SIZE, FRAMES = 128, 30
KEYS = f"DATA.TEST_CROP {SIZE} DATA.TEST_SHORT_SIDE {SIZE} DATA.TRAIN_CROP {SIZE} DATA.TRAIN_SHORT_SIDE [{SIZE},{SIZE}]"


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network whose first class is a bright square: its weights are what a square changes."""
    path = save_checkpoint(small_cfg(*KEYS.split()), tmp_path_factory.mktemp("cam") / "bright.pt")
    content = torch.load(path, weights_only=True)
    network = load_network(path)
    changes: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    find_classifier(network.model).register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.inference_mode():
        for position in (0, 32, 64, 96):
            views = torch.full((1, 8, SIZE, SIZE, 3), 20, dtype=torch.uint8)
            network.model(normalized(views, network))
            views[:, :, 48:80, position : position + 32] = 235
            network.model(normalized(views, network))
            dark, lit = (value.flatten(0, -2).mean(0) for value in inputs[-2:])
            changes.append(lit - dark)
    direction = torch.stack(changes).mean(0)
    weight = next(name for name in content["model"] if name.endswith("proj.weight"))
    content["model"][weight].zero_()[0] = 20 * direction / direction.norm() ** 2
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def moving(make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that moves from left to right, in a wide video."""
    frames = np.full((FRAMES, SIZE, SIZE + 64, 3), 20, dtype=np.uint8)
    for number in range(FRAMES):
        left = 32 + round(96 * number / (FRAMES - 1))
        frames[number, 48:80, left : left + 32] = 235
    return make_video(tmp_path_factory.mktemp("moving") / "moving square.mp4", frames)


@pytest.mark.parametrize("keys", ["OCTAVE.ALPHA 0", "", "OCTAVE.STAGES [2,3,4,5]", "MODEL.CONV_AS_2D True"])
def test_mean_heat_is_the_logit(keys: str) -> None:
    torch.manual_seed(0)
    model = build_model(small_cfg(*keys.split())).eval()
    clip = torch.randn(1, 3, 8, 64, 64)
    heat = heat_of_clip(model, clip, 2)
    bias = find_classifier(model).bias[2]
    with torch.inference_mode():
        logit = model(clip)[0, 2]
    assert heat.shape == (4, 2, 2) and torch.isclose(heat.mean() + bias, logit, atol=1e-5)


def test_heat_of_both_pathways_is_added() -> None:
    torch.manual_seed(0)
    model = build_model(small_cfg("MODEL.ARCH", "slowfast", "DATA.NUM_FRAMES", "8")).eval()
    clip = torch.randn(1, 3, 8, 64, 64)
    heat = heat_of_clip(model, clip, 2)
    bias = find_classifier(model).bias[2]
    with torch.inference_mode():
        logit = model(clip)[0, 2]
    # The Fast pathway has all frames, the Slow one two of them, which are interpolated.
    assert heat.shape == (8, 2, 2) and torch.isclose(heat.mean() + bias, logit, atol=0.02)


def test_heat_follows_the_square(bright: Path, moving: Path) -> None:
    network, predictor = load_network(bright), Predictor(bright, backend="torch")
    heat = heat_of_video(moving, network, predictor, 0)
    assert heat.shape == (FRAMES, 4, 4) and heat.min() >= 0 and heat.max() == 1
    rows, columns = np.unravel_index(heat.reshape(FRAMES, -1).argmax(1), (4, 4))
    # The square is 48 to 80 pixels from the top: in the second and the third row of places of 32 pixels.
    assert set(rows) <= {1, 2} and columns[0] <= 1 and columns[-1] == 3 and (np.diff(columns) >= 0).all()


def test_heat_comes_with_the_square(bright: Path, make_video: Callable[..., Path], tmp_path: Path) -> None:
    frames = np.full((60, SIZE, SIZE, 3), 20, dtype=np.uint8)
    frames[25:40, 48:80, 48:80] = 235
    path = make_video(tmp_path / "late.mp4", frames)
    heat = heat_of_video(path, load_network(bright), Predictor(bright, backend="torch"), 0).max((1, 2))
    # A window has 15 frames, so up to 14 frames before and after share one with the square.
    assert 25 <= heat.argmax() < 40 and heat[25:40].mean() > 1.5 * max(heat[:10].max(), heat[54:].max())


def test_video_has_heat_on_each_frame(bright: Path, moving: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "cam.mp4"
    arguments = ["cam", str(moving), "--checkpoint", str(bright), "--output", str(output)]
    assert run(main, ["visualize", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{output}\n" and f"{moving}: {CLASSES[0]}, " in captured.err
    with av.open(str(moving)) as before, av.open(str(output)) as after:
        plain = [frame.to_ndarray(format="rgb24") for frame in before.decode(video=0)]
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in after.decode(video=0)]
    assert len(shown) == FRAMES and shown[-1][0] == pytest.approx((FRAMES - 1) / 25, abs=0.001)
    scale = shown[0][1].shape[1] // (SIZE + 64)
    height, width, _ = shown[0][1].shape
    assert width == (SIZE + 64) * scale and height > SIZE * scale, "the answer is in a band below the picture"
    middle = slice(40 * scale, 88 * scale)
    red = [image[middle, ..., 0].astype(int).mean(0) - image[middle, ..., 2].mean(0) for _, image in shown]
    place = [np.average(np.arange(len(row)), weights=row.clip(1)) / scale for row in red]
    assert place[0] < place[-1] - 25, "the heat moves to the right"
    edge = [image[: SIZE * scale, : 30 * scale].mean() for _, image in shown]
    assert max(edge) < 0.7 * plain[0][:, :30].mean(), "what the crop leaves out is dark"


def test_short_video_has_all_frames(bright: Path, make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "short.mp4", np.full((3, 64, 64, 3), 90, dtype=np.uint8))
    heat = heat_of_video(path, load_network(bright), Predictor(bright, backend="torch"), 0)
    assert heat.shape == (3, 4, 4)


def test_wrong_input_is_one_line(bright: Path, moving: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    cases = {
        f"{broken}: cannot be decoded": [broken],
        "give a name that ends in .mp4": [moving, "--output", tmp_path / "a.png"],
        "this is the input video": [moving, "--output", moving],
        "not a readable checkpoint": [moving, "--checkpoint", broken],
        "cannot be written": [moving, "--checkpoint", bright, "--output", broken / "a.mp4"],
    }
    for text, arguments in cases.items():
        assert run(main, ["visualize", "cam", *map(str, arguments)]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and text in line
    assert [*tmp_path.iterdir()] == [broken]


def test_image_network_is_refused() -> None:
    keys = "MODEL.ARCH resnet50 DATA.NUM_FRAMES 1 MODEL.WIDTH 64 MODEL.BLOCKS [3,4,6,3]".split()
    with pytest.raises(UserError, match="needs a video network"):
        heat_of_clip(build_model(small_cfg(*keys)).eval(), torch.randn(1, 3, 1, 64, 64), 0)
