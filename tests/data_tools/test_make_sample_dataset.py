"""The quickstart's videos follow from the seed, are whole and split by figure; two pairs differ only in time."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
from processes import ROOT, environment

from data_tools.sample_set.actions import ACTIONS, ALL_ACTIONS, make_motion
from data_tools.sample_set.clips import FPS, Clip, clean_frames, recorded_frames
from data_tools.sample_set.figures import joints_of, make_body
from data_tools.sample_set.make_sample_dataset import MARKER, plan

SCRIPT = ROOT / "data_tools" / "make_sample_dataset.py"
TWINS = (("sit_down", "stand_up"), ("arms_open", "arms_close"))
TINY = {"train_per_class": 3, "val_per_class": 2, "size": 48, "frames": 12, "seed": 5}
ENCODING = 16  # the mean difference that the encoder stays below, of 255; another clip is 40 away


def command(output: Path, *more: str, **options: int) -> list[str]:
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, str(SCRIPT), "--output", str(output), *flags, *more]


def call(output: Path, *more: str, **options: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(output, *more, **options), env=environment(), capture_output=True, text=True, cwd=output.parent
    )


def stack(frames) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    return np.stack([np.asarray(frame) for frame in frames])


def distance(path: Path, clip: Clip) -> float:
    """Mean difference between a file's and the clip's frames, of 255. An encoder's bytes depend on the CPU."""
    with av.open(str(path)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames = stack(recorded_frames(clip))
    assert shown.shape == frames.shape
    return float(np.abs(shown.astype(int) - frames).mean())


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sample") / "set"
    done = call(output, workers=2, **TINY)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def rows(dataset: Path) -> list[dict[str, str]]:
    with (dataset / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_lists_name_exactly_the_files(dataset: Path, rows: list[dict[str, str]]) -> None:
    assert (dataset / "classes.txt").read_text().split() == sorted(ACTIONS)
    assert {row["path"] for row in rows} == {str(path.relative_to(dataset)) for path in dataset.rglob("*.mp4")}
    assert len(rows) == len(ACTIONS) * (3 + 2)
    assert [path.name for path in dataset.rglob(".*")] == [MARKER]


def test_videos_are_h264_with_all_frames(dataset: Path, rows: list[dict[str, str]]) -> None:
    for row in rows:
        with av.open(str(dataset / row["path"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (48, 48, FPS)
            assert sum(1 for _ in container.decode(stream)) == int(row["frames"]) == 12


def test_splits_share_no_figure(rows: list[dict[str, str]]) -> None:
    figures = {split: {row["figure"] for row in rows if row["split"] == split} for split in ("train", "val")}
    assert figures["train"] and figures["val"] and not figures["train"] & figures["val"]
    clips = plan(60, 20, 64, 40, 0)
    who = {split: {clip.figure for name, clip in clips.items() if name.startswith(split)} for split in ("train", "val")}
    bodies = [make_body(np.random.default_rng(figure)) for figure in who["train"] | who["val"]]
    assert len(set(bodies)) == len(who["train"]) + len(who["val"])


def test_every_figure_does_every_action() -> None:
    clips = plan(12, 4, 64, 40, 0)
    seen = {action: {clip.figure for clip in clips.values() if clip.action == action} for action in ACTIONS}
    assert all(figures == seen["walk"] for figures in seen.values())
    assert len({clip.take for clip in clips.values()}) == len(clips), "two videos would show the same performance"


def test_frames_follow_from_the_seed(dataset: Path) -> None:
    for name, clip in list(plan(**TINY).items())[::13]:
        assert np.array_equal(stack(recorded_frames(clip)), stack(recorded_frames(clip)))
        assert distance(dataset / name, clip) < ENCODING < distance(dataset / name, plan(**{**TINY, "seed": 6})[name])


@pytest.mark.parametrize(("forward", "backward"), TWINS)
def test_twins_are_each_other_reversed(forward: str, backward: str) -> None:
    for take in range(3):
        first, second = (
            stack(clean_frames(Clip(action, (0, take), (1, take), 48, 40))) for action in (forward, backward)
        )
        assert np.array_equal(first, second[::-1])
        assert np.abs(first[6].astype(int) - second[6]).mean() > 1, "the two show the same at the same time"


@pytest.mark.parametrize("action", [name for twins in TWINS for name in twins])
def test_clips_see_most_of_the_transition(action: str) -> None:
    """Clips of 8 frames, one of every 4, begin at frames 0 to 11 of 40."""
    joint = "head" if ACTIONS[action].seat else "left_wrist"
    for seed in range(40):
        rng = np.random.default_rng(seed)
        body = make_body(rng)
        path = np.array([joints_of(body, pose)[joint] for pose in make_motion(ACTIONS[action], 40, FPS, rng).poses])
        whole = np.linalg.norm(path[0] - path[-1])
        assert all(np.linalg.norm(path[start] - path[start + 28]) > 0.5 * whole for start in range(12))


@pytest.mark.parametrize("action", [name for name, action in ALL_ACTIONS.items() if action.rate])
def test_periodic_actions_never_stop(action: str) -> None:
    """Every half of a video has enough movement to recognise the action."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        body = make_body(rng)
        poses = make_motion(ALL_ACTIONS[action], 40, FPS, rng).poses
        path = np.array([list(joints_of(body, pose).values()) for pose in poses])
        for start in (0, 10, 20):
            assert np.ptp(path[start : start + 20], axis=0).max() > 0.08


def test_figures_stand_and_hold_together() -> None:
    rng = np.random.default_rng(0)
    for action in ALL_ACTIONS.values():
        body = make_body(rng)
        for pose in make_motion(action, 40, FPS, rng).poses[::5]:
            joints = {name: np.array(at) for name, at in joints_of(body, pose).items()}
            assert min(joints["left_ankle"][1], joints["right_ankle"][1]) == pytest.approx(0.04 + pose.lift)
            for side, (a, b, length) in [
                (side, part)
                for side in ("left", "right")
                for part in (("hip", "knee", body.thigh), ("knee", "ankle", body.shin), ("shoulder", "elbow", 0.165))
            ]:
                assert np.linalg.norm(joints[f"{side}_{a}"] - joints[f"{side}_{b}"]) == pytest.approx(length)
            if action.seat:
                assert joints["pelvis"][1] > body.shin, "sinks through the seat"


def test_hard_set_has_twenty_actions(tmp_path: Path) -> None:
    output, options = tmp_path / "set", {**TINY, "train_per_class": 1, "val_per_class": 1}
    done = call(output, "--hard", workers=2, **options)
    assert done.returncode == 0 and "40 videos of 20 actions made" in done.stdout, done.stderr
    assert sorted((output / "classes.txt").read_text().split()) == sorted(ALL_ACTIONS)
    clips = plan(**options, hard=True)
    assert {str(path.relative_to(output)) for path in output.rglob("*.mp4")} == set(clips)
    name = "val/punch/val000_0.mp4"
    assert distance(output / name, clips[name]) < ENCODING
    done = call(output, **options)
    assert done.returncode == 2 and "made with other settings" in done.stderr


def test_hard_videos_hide_no_action() -> None:
    """What is around the figure depends on the take, not on the action: two actions of a take share it."""
    first, second = (
        stack(recorded_frames(Clip(action, (0, 1), (0, 2), 48, 12, hard=True))) for action in ("march", "punch")
    )
    differs = (first != second).any((0, 3))
    assert 0.02 < differs.mean() < 0.9 and not differs[0].any()


def test_hard_camera_moves() -> None:
    moved = []
    for take in range(6):
        frames = stack(clean_frames(Clip("clap", (0, 1), (0, take), 48, 40, hard=True))).astype(int)
        assert np.array_equal(frames, stack(clean_frames(Clip("clap", (0, 1), (0, take), 48, 40, hard=True))))
        moved.append(np.abs(frames[0, :, 0] - frames[20, :, 0]).mean())
    assert max(moved) > 3, "the left edge shows the same throughout"


def test_clothes_and_rooms_differ() -> None:
    pictures = [next(clean_frames(Clip("wave", (0, take), (0, take), 32, 1))) for take in range(4)]
    for a, b in combinations(pictures, 2):
        assert np.abs(stack([a]).astype(int) - stack([b])).mean() > 5


def test_second_run_does_nothing(dataset: Path) -> None:
    before = stamps(dataset)
    done = call(dataset, **TINY)
    assert done.returncode == 0 and "already" in done.stdout and str(dataset) in done.stdout
    assert stamps(dataset) == before


def test_interrupted_run_is_completed(tmp_path: Path) -> None:
    output, options = tmp_path / "set", {**TINY, "train_per_class": 6, "size": 64, "frames": 24}
    # In its own session, so that the kill hits this run and its workers alone.
    process = subprocess.Popen(
        command(output, workers=2, **options), env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not any(output.rglob("[!.]*.mp4")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clips = plan(**options)
    kept = {name: stamp for name, stamp in stamps(output).items() if name in clips}
    assert kept and len(kept) < len(clips) and not (output / "manifest.csv").exists()
    done = call(output, workers=2, **options)
    assert done.returncode == 0, done.stderr
    after = stamps(output)
    assert set(clips) <= set(after) and (output / "manifest.csv").exists()
    assert all(after[name] == stamp for name, stamp in kept.items()), "whole videos were made again"
    assert all(distance(output / name, clips[name]) < ENCODING for name in kept), "the killed run left a broken video"


def test_other_options_need_force(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(dataset, output)
    done = call(output, **{**TINY, "seed": 6})
    assert done.returncode == 2 and str(output) in done.stderr and "--force" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    name = "val/walk/val000_0.mp4"
    assert (output / name).read_bytes() == (dataset / name).read_bytes()
    done = call(output, "--force", **{**TINY, "seed": 6})
    assert done.returncode == 0, done.stderr
    assert distance(output / name, plan(**{**TINY, "seed": 6})[name]) < ENCODING


def test_errors_name_the_option(tmp_path: Path) -> None:
    done = call(tmp_path / "set", size=33)
    assert done.returncode == 2 and "--size" in done.stderr and "Traceback" not in done.stderr
    done = call(tmp_path / "set", **{**TINY, "seed": -1})
    assert done.returncode == 2 and "--seed: -1 must be at least 0" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / MARKER).write_text('{"sett')
    done = call(tmp_path / "cut", **TINY)
    assert done.returncode == 2 and f"{MARKER}: damaged" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "file").write_text("")
    done = call(tmp_path / "file", **TINY)
    assert done.returncode == 2 and str(tmp_path / "file") in done.stderr and "Traceback" not in done.stderr
