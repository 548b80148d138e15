"""Hundreds of damaged files through decoders and commands: frames or a named failure, no crash, no hang.

The originals are made here, tiny, in four containers and codecs, and real clips; the damage is seeded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import pytest
from processes import environment

from octvideo.cli.check_videos import main
from octvideo.config import load_cfg
from octvideo.data import DecodeError, build_test_loader, build_train_loader, open_video
from octvideo.data.decoders.decode import DECODERS
from octvideo.data.decoders.torchcodec import why_not
from octvideo.workers import map_in_workers

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
MANY = 500  # copies in the long test
BLOCK = 4096  # bytes
CONVERSIONS = {  # further containers and codecs: arguments of ffmpeg
    "fragments.mp4": "-c:v libx264 -movflags frag_keyframe+empty_moov",
    "flash.flv": "-c:v flv1",
    "program.mpg": "-c:v mpeg2video",
    "transport.ts": "-c:v libx264",
    "windows.wmv": "-c:v wmv2",
    "theora.ogv": "-c:v libtheora",
    "phone.3gp": "-c:v mpeg4",
    "jpeg.avi": "-c:v mjpeg",
    "picture.gif": "-pix_fmt rgb8",
    "hevc.mkv": "-c:v libx265 -x265-params log-level=error",
}


def damage(content: bytes, number: int, rng: np.random.Generator) -> bytes:
    """Even numbers lose their end, odd ones have bits flipped, one to thirty of them."""
    if number % 2 == 0:
        return content[: int(rng.integers(0, len(content)))]
    changed = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(0, len(changed), rng.integers(1, 31)):
        changed[place] ^= 1 << rng.integers(0, 8)
    return changed.tobytes()


def flip(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(content), rng.integers(1, 200)):
        content[place] ^= 1 << rng.integers(0, 8)


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(0, len(content))) :]


def blank(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content)))
    size = min(int(rng.integers(1, 4 * BLOCK)), len(content) - start)
    content[start : start + size] = bytes(size)


def swap(content: bytearray, rng: np.random.Generator) -> None:
    size = min(BLOCK, len(content) // 4)
    first, second = sorted(rng.integers(0, len(content) - size, 2).tolist())
    content[first : first + size], content[second : second + size] = (
        content[second : second + size],
        content[first : first + size],
    )


def damage_header(content: bytearray, rng: np.random.Generator) -> None:
    """Change bytes of the beginning, and of the end, where MP4 may have its header."""
    near = min(BLOCK, len(content))
    for place in rng.integers(0, near, rng.integers(1, 9)).tolist():
        content[place if rng.integers(0, 2) else -1 - place] = int(rng.integers(0, 256))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder of damaged copies of all real clips, and of one in more containers."""
    folder = tmp_path_factory.mktemp("originals")
    source = data / "clips" / "actions" / "mmaction2_part_0.mp4"
    for name, arguments in CONVERSIONS.items():
        command = ["ffmpeg", "-v", "error", "-i", str(source), "-an", "-vf", "scale=176:144", "-r", "25"]
        subprocess.run([*command, *arguments.split(), str(folder / name)], check=True)
    clips = [path for path in data.rglob("*") if path.is_file() and path.parent.parent == data / "clips"]
    clips += [
        *sorted((data / "weizmann").rglob("*.avi"))[::10],
        *sorted((data / "fight_surveillance").rglob("*.*"))[::40],
    ]
    originals = [*sorted(folder.iterdir()), *sorted(path for path in clips if path.stat().st_size)]
    damaged = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(11)
    damages = flip, cut, blank, swap, damage_header
    for number, original in enumerate(islice(cycle(originals), MANY)):
        harm = damages[(number + number // len(originals)) % len(damages)]
        content = bytearray(original.read_bytes())
        harm(content, rng)
        (damaged / f"{number:03}_{harm.__name__}_{original.name}").write_bytes(content)
    return damaged


def read_some(path: str, decoder: str) -> str:
    """Return the error of reading three frames, or ""."""
    try:
        with open_video(path, decoder) as video:
            frames = video.frames(np.linspace(0, len(video) - 1, 3).astype(int))
    except DecodeError as error:
        assert error.path == path and error.reason.strip()
        return str(error)
    assert frames.dtype == np.uint8 and frames.shape[::3] == (3, 3)
    return ""


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_decoders_survive_damage(many: Path) -> None:
    decoders = [name for name in DECODERS if name != "torchcodec" or not why_not()]
    jobs = list(product(map(str, sorted(many.iterdir())), decoders))
    results = list(map_in_workers(lambda job: read_some(*job), jobs, workers=2, timeout=120))
    bad = [(job, result) for job, result in zip(jobs, results, strict=True) if not isinstance(result, str)]
    assert not bad
    assert all("\n" not in result for result in results)
    assert 0.1 < sum(map(bool, results)) / len(results) < 0.9


@pytest.mark.full
def test_the_check_survives_damage(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(many), "--workers", "2", "--timeout", "120", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(list(many.iterdir()))
    assert [row for row in rows if row["status"] == "unfinished"] == []


@pytest.mark.full
def test_predict_survives_damage(many: Path, checkpoint: Path) -> None:
    command = [sys.executable, "-m", "octvideo", "predict", str(many), "--json", "--views", "2"]
    done = subprocess.run(
        [*command, "--backend", "torch", "--device", "cpu", "--checkpoint", str(checkpoint)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    predicted = {json.loads(line)["video"] for line in done.stdout.splitlines()}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for path in map(str, many.iterdir()):
        named = [line for line in errors if path in line]
        assert len(named) == (path not in predicted), path


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
