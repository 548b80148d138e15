"""Batches that depend on seed and step alone; every test video once; nothing is lost in silence."""

import shutil

import pytest
import torch

import octvideo.data.dataset as dataset_module
from octvideo.cli import run
from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader
from octvideo.data.loaders import TrainSampler
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
    return all(torch.equal(x.frames, y.frames) and torch.equal(x.indices, y.indices) for x, y in zip(a, b))


def test_batches_depend_on_seed_and_step_alone(video_folder):
    alone = take(build_train_loader(cfg_of(video_folder)), 5)
    assert alone[0].frames.shape == (4, 4, 32, 32, 3) and alone[0].frames.dtype == torch.uint8
    for workers in ("1", "2"):
        assert same(alone, take(build_train_loader(cfg_of(video_folder, "NUM_WORKERS", workers)), 5))
    assert same(alone[3:], take(build_train_loader(cfg_of(video_folder), start_step=3), 2))
    assert not same(alone, take(build_train_loader(cfg_of(video_folder, "SEED", "1")), 5))
    assert sorted(torch.cat([b.indices for b in alone[:2]]).tolist()) == list(range(8)), "a pass has every video once"
    assert not torch.equal(alone[0].frames, alone[2].frames)


def test_ranks_share_the_global_batch(video_folder):
    whole = take(build_train_loader(cfg_of(video_folder)), 3)
    parts = [take(build_train_loader(cfg_of(video_folder), rank=rank, world_size=2), 3) for rank in range(2)]
    for step in range(3):
        assert torch.equal(torch.cat([part[step].frames for part in parts]), whole[step].frames)
    with pytest.raises(UserError, match="divisible by the 3 ranks"):
        build_train_loader(cfg_of(video_folder), world_size=3)


def test_sampler_crosses_passes():
    keys = iter(TrainSampler(5, 4, seed=0))
    first, second, third = next(keys), next(keys), next(keys)
    flat = first + second + third
    assert [draw for _, draw in flat] == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(number for number, draw in flat if draw == 1) == [0, 1, 2, 3, 4]


def test_every_view_of_every_video_with_one_decoding(video_folder, monkeypatch):
    opened = []
    really_open = dataset_module.open_video

    def counting(path, decoder):
        opened.append(path)
        return really_open(path, decoder)

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


def test_broken_videos_are_replaced_in_training_and_named_in_testing(video_folder, tmp_path):
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
def test_a_data_set_of_broken_files_ends_in_one_line(tmp_path, capsys, workers):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.mp4").write_bytes(b"broken")
    loader = build_train_loader(cfg_of(tmp_path, "NUM_WORKERS", workers))
    assert run(lambda _: next(iter(loader))) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ") and "x.mp4" in err and "20 drawn videos in a row" in err and "\n" not in err


def test_training_needs_labels(video_folder, tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\n")
    with pytest.raises(UserError, match="no labels"):
        build_train_loader(cfg_of(video_folder, "DATA.TRAIN", str(tmp_path / "list.txt")))
