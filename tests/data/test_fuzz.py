"""Hundreds of damaged files through the loader and through the check: frames or a named failure, no crash, no hang.

The originals are made here, tiny, in four containers and codecs, and real clips; the damage is seeded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octvideo.cli.check_videos import main
from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader

CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".mkv": "libx264", ".webm": "libvpx-vp9"}
COPIES = 60  # of each, half of them cut, half with bits flipped
REAL = (
    "actions/mmaction2_part_0.mp4",
    "asl_gestures/eat.mkv",
    "formats/decord_video_90.mov",
    "formats/moviepy_no_duration.webm",
    "formats/torchcodec_h265_video.mp4",
    "formats/torchcodec_nasa_13013_rotated.mp4",
    "formats/torchcodec_testsrc2_odd_width_vp9.mp4",
    "formats/torchcodec_av1_video.mkv",
)
REAL_COPIES = 12


def damage(content: bytes, number: int, rng: np.random.Generator) -> bytes:
    """Even numbers lose their end, odd ones have bits flipped, one to thirty of them."""
    if number % 2 == 0:
        return content[: int(rng.integers(0, len(content)))]
    changed = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(0, len(changed), rng.integers(1, 31)):
        changed[place] ^= 1 << rng.integers(0, 8)
    return changed.tobytes()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """A list of the damaged files, and of the four whole ones."""
    folder = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 256, (10, 32, 48, 3), dtype=np.uint8)
    frames[:, 8:24, 8:40] = 200
    lines = []
    for suffix, codec in CODECS.items():
        whole = make_video(folder / f"whole{suffix}", frames, codec=codec, gop=4)
        lines.append(f"{whole.name} 1")
        for number in range(COPIES):
            name = f"{suffix[1:]}_{number:02d}{suffix}"
            (folder / name).write_bytes(damage(whole.read_bytes(), number, rng))
            lines.append(f"{name} 0")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


def cfg_of(source: Path):
    sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,32] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 32"
    rest = "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 TRAIN.BATCH_SIZE 4 MODEL.NUM_CLASSES 2 TEST.NUM_CLIPS 3"
    faults = "TEST.NUM_CROPS 1 NUM_WORKERS 1 DATA.RETRIES 0 DATA.ITEM_TIMEOUT 10"
    paths = ["DATA.TRAIN", str(source), "DATA.VAL", str(source)]
    return load_cfg(None, [*f"{sizes} {rest} {faults}".split(), *paths])


def test_testing_gives_frames_or_a_named_failure(damaged):
    items = list(build_test_loader(cfg_of(damaged)))
    assert [item.index for item in items] == list(range(4 * (COPIES + 1)))
    for item in items:
        if item.frames is None:
            assert Path(item.failed.path).parent == damaged.parent and item.failed.reason.strip()
            assert not Path(item.failed.path).name.startswith("whole")
        else:
            assert item.frames.shape == (3, 4, 32, 32, 3) and item.failed is None
    failed = sum(item.frames is None for item in items)
    assert COPIES < failed < 3 * COPIES, "too little damage, or too much, to test anything"


def test_testing_damaged_real_clips(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    paths = []
    for original in (data / "clips" / name for name in REAL):
        for number in range(REAL_COPIES):
            paths.append(tmp_path / f"{original.stem}_{number}{original.suffix}")
            paths[-1].write_bytes(damage(original.read_bytes(), number, rng))
    (tmp_path / "list.txt").write_text("".join(f"{path} 0\n" for path in paths))
    items = list(build_test_loader(cfg_of(tmp_path / "list.txt")))
    assert [item.index for item in items] == list(range(len(paths)))
    for item, path in zip(items, paths, strict=True):
        if item.frames is None:
            assert item.failed.path == str(path) and item.failed.reason.strip()
        else:
            assert item.frames.shape == (3, 4, 32, 32, 3) and item.failed is None
    assert 0.1 < sum(item.frames is None for item in items) / len(items) < 0.9


def test_training_goes_on(damaged):
    batches = iter(build_train_loader(cfg_of(damaged)))
    taken = [next(batches) for _ in range(COPIES + 1)]  # one pass
    assert all(batch.frames.shape == (4, 4, 32, 32, 3) for batch in taken)
    failures = [failure for batch in taken for failure in batch.failed]
    assert len(failures) > COPIES and all(failure.path and failure.reason for failure in failures)


def test_the_check_names_damage(damaged, capsys):
    assert main([str(damaged), "--workers", "2", "--timeout", "20", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4 * (COPIES + 1)
    assert all((row["status"] == "ok") == (row["error"] == "") for row in rows)
    status = {Path(row["path"]).name: row["status"] for row in rows}
    assert all(status[f"whole{suffix}"] == "ok" for suffix in CODECS)
    whole = {suffix: (damaged.parent / f"whole{suffix}").stat().st_size for suffix in CODECS}
    cut = [row for row in rows if Path(row["path"]).stem[-1] in "02468"]
    for row in cut:
        if row["size"] < 0.8 * whole[Path(row["path"]).suffix]:
            assert row["status"] != "ok", f"{row['path']} is cut, and passes"
