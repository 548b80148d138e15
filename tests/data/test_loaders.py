"""Batches that depend on seed and step alone; every test video once; nothing is lost in silence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import octvideo.data.dataset as dataset_module
from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader
from octvideo.data.dataset import MAX_CONSECUTIVE_FAILURES, UNREADABLE
from octvideo.data.loaders import TrainSampler
from octvideo.data.transforms import resize_short_side, spatial_crops
from octvideo.errors import UserError


def cfg_of(folder, *overrides):
    sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40"
    rest = "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.COLOR_JITTER 0.3 TRAIN.BATCH_SIZE 4 MODEL.NUM_CLASSES 2"
    paths = ["DATA.TRAIN", str(folder / "train"), "DATA.VAL", str(folder / "val")]
    return load_cfg(None, [*sizes.split(), *rest.split(), *paths, "NUM_WORKERS", "0", *overrides])


def take(loader, count):
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def same(a, b):
    return all(
        torch.equal(x.frames, y.frames) and torch.equal(x.indices, y.indices) and torch.equal(x.seeds, y.seeds)
        for x, y in zip(a, b)
    )


def test_batches_depend_on_seed_and_step_alone(video_folder):
    alone = take(build_train_loader(cfg_of(video_folder)), 5)
    assert alone[0].frames.shape == (4, 4, 32, 32, 3) and alone[0].frames.dtype == torch.uint8
    for workers in ("1", "2"):
        assert same(alone, take(build_train_loader(cfg_of(video_folder, "NUM_WORKERS", workers)), 5))
    assert same(alone[3:], take(build_train_loader(cfg_of(video_folder), start_step=3), 2))
    assert not same(alone, take(build_train_loader(cfg_of(video_folder, "SEED", "1")), 5))
    assert sorted(torch.cat([b.indices for b in alone[:2]]).tolist()) == list(range(8)), "a pass has every video once"
    assert not torch.equal(alone[0].frames, alone[2].frames)


@pytest.mark.parametrize("repeats", ["1", "2"])
def test_ranks_share_the_global_batch(video_folder, repeats):
    cfg = cfg_of(video_folder, "DATA.REPEATS", repeats)
    whole = take(build_train_loader(cfg), 3)
    parts = [take(build_train_loader(cfg, rank=rank, world_size=2), 3) for rank in range(2)]
    for step in range(3):
        assert torch.equal(torch.cat([part[step].frames for part in parts]), whole[step].frames)
        assert torch.equal(torch.cat([part[step].seeds for part in parts]), whole[step].seeds)
    with pytest.raises(UserError, match="divisible by the 3 ranks"):
        build_train_loader(cfg_of(video_folder), world_size=3)


def test_sampler_crosses_passes():
    assert len(next(iter(TrainSampler(5, 4, seed=2**63 - 1)))) == 4  # the largest that SEED can be
    keys = iter(TrainSampler(5, 4, seed=0))
    first, second, third = next(keys), next(keys), next(keys)
    flat = first + second + third
    assert [draw for _, draw in flat] == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(number for number, draw in flat if draw == 1) == [0, 1, 2, 3, 4]


def test_sampler_repeats_by_hand():
    keys = TrainSampler(5, 4, seed=0, repeats=2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0)).tolist()
    after = torch.randperm(5, generator=torch.Generator().manual_seed(1)).tolist()
    a, b, c, d, e = order
    steps = [batch for batch, _ in zip(keys, range(4))]
    assert steps[0] == [(a, 0), (b, 0), (a, 1), (b, 1)]
    assert steps[1] == [(c, 0), (d, 0), (c, 1), (d, 1)]
    assert steps[2] == [(e, 0), (after[0], 2), (e, 1), (after[0], 3)], "across the passes"
    assert next(iter(TrainSampler(5, 4, seed=0, repeats=2, start_step=3))) == steps[3]
    halves = [next(iter(TrainSampler(5, 4, seed=0, rank=rank, world_size=2, repeats=2))) for rank in range(2)]
    assert halves == [steps[0][:2], steps[0][2:]]


def test_repeats_have_different_augmentation(video_folder):
    crop = ["DATA.RANDOM_RESIZED_CROP", "[0.2,0.9,0.75,1.3333]"]
    batches = take(build_train_loader(cfg_of(video_folder, "DATA.REPEATS", "2", *crop)), 4)
    for batch in batches:
        assert batch.indices[:2].tolist() == batch.indices[2:].tolist() and len(batch.indices.unique()) == 2
        assert len(batch.seeds.unique()) == 4
        assert not torch.equal(batch.frames[0], batch.frames[2]) and not torch.equal(batch.frames[1], batch.frames[3])
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == sorted([*range(8), *range(8)])


@pytest.mark.parametrize("build", [build_train_loader, build_test_loader])
def test_spawned_workers_read_the_same(video_folder, build):
    """As on macOS and Windows."""
    forked, spawned = (build(cfg_of(video_folder, "NUM_WORKERS", "1", "DATA.COLOR_JITTER", "0.3")) for _ in range(2))
    spawned.multiprocessing_context = "spawn"
    pairs = list(zip(take(forked, 3), take(spawned, 3), strict=True))
    assert len(pairs) == 3 and all(torch.equal(a.frames, b.frames) for a, b in pairs)


@pytest.mark.parametrize("sampling", ["pyslowfast", "pytorchvideo"])
def test_batches_do_not_depend_on_workers(video_folder, sampling):
    crop = ["DATA.RANDOM_RESIZED_CROP", "[0.2,0.9,0.75,1.3333]", "DATA.REPEATS", "2", "DATA.SAMPLING", sampling]
    alone = take(build_train_loader(cfg_of(video_folder, *crop)), 3)
    for workers in ("1", "2"):
        assert same(alone, take(build_train_loader(cfg_of(video_folder, *crop, "NUM_WORKERS", workers)), 3))
    assert not same(alone, take(build_train_loader(cfg_of(video_folder)), 3))


@pytest.mark.parametrize("sampling", ["even", "pyslowfast", "pytorchvideo"])
def test_the_sampling_key_reaches_both_loaders(video_folder, sampling):
    cfg = cfg_of(
        video_folder, "DATA.SAMPLING", sampling, "TEST.NUM_CLIPS", "2", "TEST.NUM_CROPS", "1", "DATA.FLIP", "0"
    )
    item = next(iter(build_test_loader(cfg)))
    with dataset_module.open_video(str(video_folder / "val" / "down" / "video 0.mp4")) as video:
        # 24 frames at 25 a second, clips of 4 at rate 2: 8 / 30 s or 6.67 frames, room for 17.33 frames before them
        numbers = {
            "even": [[0, 2, 4, 6], [17, 19, 21, 23]],
            "pyslowfast": [[0, 1, 3, 5], [8, 10, 12, 14]],  # 8.67 to 14.33, 1.89 apart
            "pytorchvideo": [[0, 2, 4, 6], [9, 11, 13, 15]],  # those that begin from 8.67 to 15.33: 9 to 15
        }[sampling]
        assert video.fps == 25 and len(video) == 24
        frames = [resize_short_side(torch.from_numpy(video.frames(clip)), 40) for clip in numbers]
    assert torch.equal(item.frames, torch.stack([spatial_crops(clip, 32, 1)[0] for clip in frames]))
    clip = next(iter(build_train_loader(cfg))).frames
    other = next(iter(build_train_loader(cfg_of(video_folder, "DATA.FLIP", "0")))).frames
    assert torch.equal(clip, other) == (sampling == "even")


def test_every_view_of_every_video_with_one_decoding(video_folder, monkeypatch):
    opened = []
    really_open = dataset_module.open_video

    def counting(path, *args, **options):
        opened.append(path)
        return really_open(path, *args, **options)

    monkeypatch.setattr(dataset_module, "open_video", counting)
    items = list(build_test_loader(cfg_of(video_folder, "DATA.ITEM_TIMEOUT", "0")))  # counted in this process
    assert len(items) == 8 and len(opened) == len(set(opened)) == 8
    assert [item.index for item in items] == list(range(8))
    assert items[0].frames.shape == (30, 4, 32, 32, 3) and items[0].failed is None
    # clip-major: three crops of the first clip, the middle one is the centre
    single = list(build_test_loader(cfg_of(video_folder, "TEST.NUM_CROPS", "1")))
    assert torch.equal(single[5].frames, items[5].frames[1::3])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_uneven_shards_have_every_video_once(video_folder, world_size):
    cfg = cfg_of(video_folder, "TEST.NUM_CLIPS", "1", "TEST.NUM_CROPS", "1", "NUM_WORKERS", "2")
    numbers = [
        item.index for rank in range(world_size) for item in build_test_loader(cfg, rank=rank, world_size=world_size)
    ]
    assert sorted(numbers) == list(range(8))


def test_broken_videos_are_replaced_or_named(video_folder, tmp_path):
    shutil.copytree(video_folder, tmp_path / "v")
    broken = tmp_path / "v" / "train" / "down" / "video 1.mp4"
    broken.write_bytes(b"no video")
    shutil.copy(broken, tmp_path / "v" / "val" / "down" / "video 1.mp4")
    batches = take(build_train_loader(cfg_of(tmp_path / "v")), 4)
    failures = [failure for batch in batches for failure in batch.failed]
    assert len(failures) >= 2 and {failure.path for failure in failures} == {str(broken)}
    assert all(len(batch.labels) == 4 and 1 not in batch.indices for batch in batches)
    items = list(build_test_loader(cfg_of(tmp_path / "v")))
    assert [item.index for item in items if item.frames is None] == [1]
    assert "video 1.mp4" in items[1].failed.path and items[1].failed.reason


@pytest.mark.parametrize("workers", ["0", "1"])
def test_clip_is_black_after_twenty_failures(tmp_path, workers):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.mp4").write_bytes(b"broken")
    batch = next(iter(build_train_loader(cfg_of(tmp_path, "NUM_WORKERS", workers))))
    assert batch.labels.tolist() == [UNREADABLE] * 4 and not batch.frames.any()
    assert len(batch.failed) == 4 * MAX_CONSECUTIVE_FAILURES and {
        Path(failure.path).name for failure in batch.failed
    } == {"x.mp4"}


def test_mixing_needs_two_clips_on_each_rank(video_folder):
    cfg = cfg_of(video_folder, "TRAIN.MIXUP", "0.8")
    build_train_loader(cfg, world_size=2)
    with pytest.raises(UserError, match="TRAIN.BATCH_SIZE is 4, one clip for each rank: TRAIN.MIXUP"):
        build_train_loader(cfg, world_size=4)


def test_training_needs_labels(video_folder, tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\n")
    with pytest.raises(UserError, match="without labels"):
        build_train_loader(cfg_of(video_folder, "DATA.TRAIN", str(tmp_path / "list.txt")))


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a place for mounts of its own")
@pytest.mark.parametrize(("split", "advice"), [("train", "TRAIN.BATCH_SIZE"), ("test", "TEST.NUM_CLIPS")])
def test_small_shared_memory_is_noticed_before(video_folder, split, advice):
    code = f"""
import sys
from test_loaders import *
build_{split}_loader(cfg_of(Path(sys.argv[1]), *"NUM_WORKERS 2 DATA.NUM_FRAMES 400".split()))
"""
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code, str(video_folder)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode == 77 or "Operation not permitted" in done.stderr:
        pytest.skip("may not mount")
    assert done.returncode == 1 and "UserError: /dev/shm has 1 MB free, and NUM_WORKERS 2 need up to" in done.stderr
    assert done.stderr.endswith(f"or set NUM_WORKERS 0, or lower {advice}\n")
