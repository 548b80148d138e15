from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import CLASSES, small_cfg

from octvideo.data import build_test_loader, open_video
from octvideo.data.transforms import normalize_clips
from octvideo.engine.networks import load_network
from octvideo.engine.tester import score_videos
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.inference.sources import FrameReader

CLIP = "clips/actions/mmaction2_part_0.mp4"


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, device="cpu")


def test_scores_are_probabilities_and_sorted(predictor: Predictor, data: Path) -> None:
    found = predictor.predict(data / CLIP, top_k=100)
    assert sorted(label for label, _ in found) == sorted(CLASSES)
    assert sum(score for _, score in found) == pytest.approx(1, abs=1e-5)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert 1.2 / len(CLASSES) < found[0].score < 0.999
    assert predictor.predict(data / CLIP, top_k=2) == found[:2]


def test_scores_average_softmax_over_views(checkpoint: Path, predictor: Predictor, data: Path) -> None:
    """By hand: 32 frames, clips of 8 frames at rate 2 (15 frames), 3 clips start at 0, 8 and 17."""
    network = load_network(checkpoint)
    with open_video(str(data / CLIP)) as video:
        frames = video.frames(range(32))
    # 455 x 256 to a short side of 64 is 114 x 64, of which the middle 64 columns stay.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), (64, 114), mode="bilinear", antialias=True
    )
    small = small.round().byte().permute(0, 2, 3, 1)[:, :, 25:89]
    clips = torch.stack([small[start : start + 15 : 2] for start in (0, 8, 17)])
    with torch.inference_mode():
        scores = network.model(normalize_clips(clips, network.cfg.DATA.MEAN, network.cfg.DATA.STD)).softmax(1).mean(0)
    for label, score in predictor.predict(data / CLIP, top_k=6):
        assert score == pytest.approx(scores[network.classes.index(label)].item(), abs=2e-3)


def test_average_of_logits_is_that_of_testing(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """A video whose best class is another one by either average; both are those of ``score_videos``."""
    payload = torch.load(checkpoint, weights_only=True)
    weight, bias = (payload["model"][f"blocks.6.proj.{name}"] for name in ("weight", "bias"))
    (tmp_path / "list.txt").write_text(f"{data / CLIP}\n")
    settings = ["DATA.VAL", str(tmp_path / "list.txt"), "TEST.NUM_CROPS", "1", "NUM_WORKERS", "0"]
    cfgs = {name: small_cfg(*settings, "TEST.AVERAGE", name) for name in ("softmax", "logits")}
    [views] = build_test_loader(cfgs["softmax"])
    assert views.frames is not None
    mean, std = cfgs["softmax"].DATA.MEAN, cfgs["softmax"].DATA.STD
    features: list[torch.Tensor] = []
    model = load_network(checkpoint).model
    model.blocks[6].proj.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        model(normalize_clips(views.frames, mean, std))
    # Logits that one view decides by far, (9, 0, 0), and the other two the other way, (-1, 0, 0) each, as nearly as the
    # classifier can: then class 0 has the larger mean logit, and class 1 the larger mean probability.
    wanted = torch.full((3, 6), -20.0)
    wanted[:, :2] = torch.tensor([[9.0, 0.0], [-3.0, 0.0], [-3.0, 0.0]])
    flat = features[0].reshape(3, -1, weight.shape[1]).mean(1).clone()
    solved = torch.linalg.lstsq(torch.cat([flat, torch.ones(3, 1)], 1).double(), wanted.double()).solution.float()
    weight.copy_(solved[:-1].T)
    bias.copy_(solved[-1])
    torch.save(payload, tmp_path / "decided.pt")
    best = {}
    for name, cfg in cfgs.items():
        found = Predictor(tmp_path / "decided.pt", cfg=cfg, device="cpu").predict(data / CLIP, top_k=6)
        network = load_network(tmp_path / "decided.pt", cfg)
        [scores] = score_videos(
            network.model, [views.frames], mean=mean, std=std, device=torch.device("cpu"), max_views=4, average=name
        )
        assert sum(score for _, score in found) == pytest.approx(1, abs=1e-5) == scores.sum().item()
        assert [label for label, _ in found[:2]] == [network.classes[index] for index in scores.topk(2).indices]
        for label, score in found:
            assert score == pytest.approx(scores[network.classes.index(label)].item(), abs=2e-3)
        best[name] = found[0].label
    assert best == {"logits": "bend", "softmax": "jack"}


def test_prediction_takes_the_frames_of_testing(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{data / CLIP}\n")
    seen = []
    for sampling in ("even", "pyslowfast", "pytorchvideo"):
        settings = ["DATA.VAL", str(tmp_path / "list.txt"), "DATA.SAMPLING", sampling, "TEST.NUM_CROPS", "1"]
        cfg = small_cfg(*settings, "NUM_WORKERS", "0")
        predictor = Predictor(checkpoint, cfg, device="cpu")
        network = load_network(checkpoint, cfg, as_2d=True)
        frames = next(iter(build_test_loader(cfg))).frames
        with torch.inference_mode():
            scores = network.model(normalize_clips(frames, cfg.DATA.MEAN, cfg.DATA.STD)).softmax(1).mean(0)
        found = dict(predictor.predict(data / CLIP, 6))
        assert [found[label] for label in network.classes] == pytest.approx(scores.tolist(), abs=1e-5)
        seen.append(found)
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_frames_in_memory_give_the_file_s_result(predictor: Predictor, data: Path) -> None:
    with FrameReader(str(data / CLIP)) as reader:
        frames = np.stack(list(reader))
    expected = dict(predictor.predict(data / CLIP, 6))
    for label, score in predictor.predict_frames(frames, 6):
        assert score == pytest.approx(expected[label], abs=5e-3)
    for wrong in (frames[0], frames.astype(np.float32), frames[:0], frames[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            predictor.predict_frames(wrong)


def test_views(checkpoint: Path, data: Path) -> None:
    one, many = Predictor(checkpoint, views=1), Predictor(checkpoint, views=9)
    assert one.predict(data / CLIP, 6) != many.predict(data / CLIP, 6)
    for views in (0, 10**9):
        with pytest.raises(UserError, match=f"views is {views}: it must be between 1 and"):
            Predictor(checkpoint, views=views)


@pytest.mark.parametrize(
    "name",
    [
        "clips/formats/decord_video_90.mov",
        "clips/formats/moviepy_bitmap.mp4",
        "clips/formats/moviepy_no_duration.webm",
        "clips/formats/torchcodec_av1_video.mkv",
        "clips/formats/torchcodec_testsrc2_odd_height_444.mp4",
        "weizmann/bend/lena_bend.avi",
    ],
)
def test_unusual_files(predictor: Predictor, data: Path, name: str) -> None:
    assert len(predictor.predict(data / name, 6)) == 6


def test_an_upright_phone_video_is_seen_upright(predictor: Predictor, data: Path) -> None:
    path = data / "clips" / "formats" / "decord_video_90.mov"
    with FrameReader(str(path)) as reader, open_video(str(path)) as video:
        for frame, other in zip(reader, video.frames(range(3)), strict=True):
            assert frame.shape == other.shape == (568, 320, 3)
            assert np.abs(frame.astype(int) - other.astype(int)).mean() < 4


@pytest.mark.parametrize("content", [None, b"", b"text", bytes(5000)])
def test_unreadable_files_are_user_errors(predictor: Predictor, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.mp4") as caught:
        predictor.predict(path)
    assert "\n" not in str(caught.value)


def test_cuda_is_refused_where_there_is_none(checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="--device"):
        Predictor(checkpoint, device="cuda")


def test_running_3d_as_2d_changes_nothing(checkpoint: Path) -> None:
    """What the predictor does on a CPU."""
    clips = torch.randn(2, 3, 8, 64, 64)
    with torch.inference_mode():
        expected, found = (load_network(checkpoint, as_2d=as_2d).model(clips) for as_2d in (False, True))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
