"""Decoders that hang and crash below the loader: the run goes on, names the video, and stops where it is too much."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from processes import HELPERS, run_script

import octvideo.data.dataset as dataset_module
from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader
from octvideo.errors import UserError

REASONS = {"hangs.mp4": "timed out after 5 s", "crashes.mp4": "the decoder crashed (signal 11)"}


@pytest.fixture
def faulty(video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of six videos, of which one makes its decoder hang and one makes it crash, for real."""
    videos = sorted((video_folder / "train").rglob("*.mp4"))[:4]
    for name in REASONS:
        (tmp_path / name).write_bytes(videos[0].read_bytes())
    really_open = dataset_module.open_video

    def open_video(path: str, *args: object, **options: object):
        if path.endswith("hangs.mp4"):
            time.sleep(600)
        if path.endswith("crashes.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return really_open(path, *args, **options)

    monkeypatch.setattr(dataset_module, "open_video", open_video)
    lines = [*videos[:2], "hangs.mp4", *videos[2:], "crashes.mp4"]
    (tmp_path / "list.txt").write_text("".join(f"{line} {number % 2}\n" for number, line in enumerate(lines)))
    return tmp_path / "list.txt"


def cfg_of(source: Path, *overrides: str):
    sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40"
    rest = "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.COLOR_JITTER 0.3 TRAIN.BATCH_SIZE 6 MODEL.NUM_CLASSES 2"
    views = "TEST.NUM_CLIPS 2 TEST.NUM_CROPS 3 DATA.RETRIES 1 DATA.ITEM_TIMEOUT 5"
    paths = ["DATA.TRAIN", str(source), "DATA.VAL", str(source)]
    return load_cfg(None, [*f"{sizes} {rest} {views}".split(), *paths, *overrides])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_hangs_or_crashes_is_replaced_in_training(faulty, workers):
    batch = next(iter(build_train_loader(cfg_of(faulty, "NUM_WORKERS", workers))))  # a pass, every video once
    assert batch.frames.shape == (6, 4, 32, 32, 3) and not {2, 5} & set(batch.indices.tolist())
    assert {Path(failure.path).name: failure.reason for failure in batch.failed} == REASONS


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_hangs_or_crashes_is_named_in_testing(faulty, workers):
    items = list(build_test_loader(cfg_of(faulty, "NUM_WORKERS", workers)))
    assert [item.index for item in items] == list(range(6))
    assert {Path(item.failed.path).name: item.failed.reason for item in items if item.frames is None} == REASONS
    assert [item.frames.shape for item in items if item.frames is not None] == [(6, 4, 32, 32, 3)] * 4


def test_a_video_is_tried_again_after_a_crash(video_folder, tmp_path, monkeypatch):
    really_open = dataset_module.open_video

    def open_video(path: str, *args: object, **options: object):
        marker = tmp_path / Path(path).name
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return really_open(path, *args, **options)

    monkeypatch.setattr(dataset_module, "open_video", open_video)
    items = list(build_test_loader(cfg_of(video_folder / "val", "NUM_WORKERS", "0")))
    assert len(items) == 8 and all(item.failed is None for item in items)
    assert len(list(tmp_path.iterdir())) == 4, "each name has crashed once"


@pytest.mark.parametrize("build", [build_train_loader, build_test_loader])
def test_the_guard_changes_no_pixel(video_folder, build):
    def frames(*overrides: str) -> list[torch.Tensor]:
        return [item.frames for item in islice(build(cfg_of(video_folder / "train", *overrides)), 4)]

    plain = frames("DATA.ITEM_TIMEOUT", "0", "NUM_WORKERS", "0")
    guarded = frames("DATA.ITEM_TIMEOUT", "60", "NUM_WORKERS", "1")
    assert len(plain) == 4 and all(torch.equal(a, b) for a, b in zip(plain, guarded, strict=True))


def test_the_loader_has_more_patience_than_the_guard(video_folder):
    def patience(*overrides: str) -> float:
        return build(cfg_of(video_folder / "train", "NUM_WORKERS", "1", "DATA.RETRIES", "2", *overrides)).patience

    build = build_train_loader
    assert patience("DATA.ITEM_TIMEOUT", "60") == 900  # five of six clips in three attempts
    assert patience("DATA.ITEM_TIMEOUT", "0") == 300
    assert patience("DATA.ITEM_TIMEOUT", "1e9") == 1e6
    build = build_test_loader
    assert patience("DATA.ITEM_TIMEOUT", "200") == 600
    with pytest.raises(UserError, match="DATA.ITEM_TIMEOUT is -1"):
        cfg_of(video_folder / "train", "DATA.ITEM_TIMEOUT", "-1")


def test_hanging_worker_ends_the_run(video_folder):
    before = multiprocessing.active_children()
    loader = build_train_loader(cfg_of(video_folder / "train", "NUM_WORKERS", "2"))
    loader.patience = 60.0
    batches = iter(loader)
    next(batches)
    loader.patience = 3.0
    workers = [child for child in multiprocessing.active_children() if child not in before]
    os.kill(workers[0].pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="^waited 3 s in vain for a batch: a loader worker hangs"):
        for _ in batches:
            pass
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL


def test_ranks_stop_together_on_failures(tmp_path):
    done = run_script(HELPERS / "failing_videos_rank.py", tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    ends = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert ends[0] == ends[1]
    assert ends[0].startswith("[2, 2, 2, 2, 2] 36 12 of 36 videos cannot be read")
    assert "DATA.MAX_FAILED (0.1)" in ends[0] and "/broken.mp4: no frames" in ends[0]
