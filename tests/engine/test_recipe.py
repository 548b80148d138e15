"""Settings that follow from the videos, the machine and the time."""

from __future__ import annotations

import pytest

from octvideo.config import load_cfg, with_keys
from octvideo.data import build_index
from octvideo.data.checking.video import OK, check_video
from octvideo.engine.recipe import VideoFacts, choose_settings, choose_steps, facts_of, seconds_per_step

USUAL = VideoFacts(frames=60, fps=25, short_side=144)


def _settings(facts=USUAL, num_train=70, classes=("bend", "run"), cores=2, pretrained=False, **keys):
    cfg = with_keys(load_cfg("small.yaml"), {"DEVICE": "cpu", **keys})
    return choose_settings(cfg, facts, num_train, classes, cores=cores, pretrained=pretrained)


def test_settings_are_a_valid_configuration(tmp_path):
    cfg = with_keys(load_cfg("small.yaml"), {**_settings(), **choose_steps(70, 16, pretrained=False)})
    (tmp_path / "a.yaml").write_text(cfg.dump())
    assert load_cfg(tmp_path / "a.yaml").TEST.WEIGHTS == "best"


@pytest.mark.parametrize(
    ("facts", "stride"),
    [(USUAL, 4), (USUAL._replace(fps=60), 8), (USUAL._replace(fps=10), 2), (USUAL._replace(frames=20), 2)],
)
def test_stride_follows_the_videos(facts, stride):
    assert _settings(facts)["DATA.SAMPLING_RATE"] == stride


def test_single_frames_have_stride_one():
    assert _settings(USUAL._replace(frames=1))["DATA.SAMPLING_RATE"] == 1


def test_clips_are_not_larger_than_the_videos():
    small = _settings(USUAL._replace(short_side=80))
    assert (small["DATA.TRAIN_CROP"], small["DATA.TRAIN_SHORT_SIDE"]) == (64, [64, 80])
    assert small["DATA.TEST_CROP"] <= small["DATA.TEST_SHORT_SIDE"] == 69
    assert _settings(USUAL._replace(short_side=1080))["DATA.TRAIN_CROP"] == 96


def test_rate_follows_width_batch_and_weights():
    assert _settings()["SOLVER.BASE_LR"] == 2e-3
    assert _settings(pretrained=True)["SOLVER.BASE_LR"] == 5e-4
    assert _settings(**{"MODEL.WIDTH": 64})["SOLVER.BASE_LR"] == 5e-4
    few = _settings(num_train=8)
    assert (few["TRAIN.BATCH_SIZE"], few["SOLVER.BASE_LR"]) == (8, 1e-3)


@pytest.mark.parametrize("classes", [("turn left", "turn right"), ("wave_left_hand", "run"), ("Links", "Rechts")])
def test_sides_are_not_flipped(classes):
    assert _settings(classes=classes)["DATA.FLIP"] == 0
    assert _settings(classes=["cleft", "bright"])["DATA.FLIP"] == 0.5


def test_cores_are_shared_between_network_and_loader():
    assert (_settings()["NUM_THREADS"], _settings()["NUM_WORKERS"]) == (1, 1)
    assert (_settings(cores=8)["NUM_THREADS"], _settings(cores=8)["NUM_WORKERS"]) == (4, 4)
    assert (_settings(cores=1)["NUM_THREADS"], _settings(cores=1)["NUM_WORKERS"]) == (1, 1)


def test_steps_follow_epochs_or_time():
    assert choose_steps(70, 16, pretrained=False)["TRAIN.STEPS"] == 900
    assert choose_steps(70, 16, pretrained=True)["TRAIN.STEPS"] == 400
    assert choose_steps(16_000, 16, pretrained=False)["TRAIN.STEPS"] == 30_000
    assert choose_steps(160, 16, pretrained=False, epochs=12)["TRAIN.STEPS"] == 120
    assert choose_steps(70, 16, pretrained=False, seconds=100, pace=0.5)["TRAIN.STEPS"] == 200
    assert choose_steps(70, 16, pretrained=False, seconds=1e6, pace=0.5)["TRAIN.STEPS"] == 1800  # no more is needed
    assert choose_steps(70, 16, pretrained=False, seconds=1, pace=9)["TRAIN.STEPS"] == 1
    assert choose_steps(70, 16, pretrained=False, steps=33)["TRAIN.STEPS"] == 33


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (20, 20), (120, 25), (900, 75), (30_000, 2500)])
def test_evaluations_are_spread_over_the_run(steps, every):
    assert choose_steps(70, 16, pretrained=False, steps=steps)["TRAIN.EVAL_EVERY"] == every


def test_pace_is_measured_on_the_videos(video_folder):
    checked = [check_video(str(path)) for path in sorted((video_folder / "train").rglob("*.mp4"))]
    assert {video.status for video in checked} == {OK}
    assert facts_of(checked) == (24, 25, 64)
    keys = {"MODEL.WIDTH": 4, "MODEL.BLOCKS": [1, 1, 1, 1], "DATA.TRAIN": str(video_folder / "train")}
    cfg = with_keys(load_cfg("small.yaml"), {**_settings(facts_of(checked), 8), **keys, "NUM_WORKERS": 0})
    assert 0 < seconds_per_step(cfg, build_index(cfg, "train"), steps=4) < 60
