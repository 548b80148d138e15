"""A folder of numbered images is a video: listed, trained on, tested, checked and predicted as a file is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import call

from octvideo.cli import run
from octvideo.cli.check_videos import main as check_videos
from octvideo.cli.predict import main as predict
from octvideo.data import DecodeError, open_video, read_index
from octvideo.data.media import frames_in
from octvideo.data.seen import hash_video

COUNT = 12


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Frames ``(COUNT, 48, 64, 3)``, each of another grey."""
    return np.repeat(np.arange(20, 20 + 18 * COUNT, 18, np.uint8)[:, None, None, None], 48, 1) * np.ones(
        (1, 1, 64, 3), np.uint8
    )


def write(folder: Path, frames: np.ndarray, name: str = "img_{:05d}.png") -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


@pytest.fixture
def data_set(tmp_path: Path, pictures: np.ndarray) -> Path:
    """Two classes of four videos, beside them what cameras and systems leave."""
    for label, place in (("down", 0), ("right", 1)):
        for number in range(4):
            frames = pictures.copy()
            frames[:, :, :, place] = 255 - frames[:, :, :, place] // 2
            write(tmp_path / "set" / label / f"clip {number}", frames)
    (tmp_path / "set" / "down" / "clip 0" / "Thumbs.db").touch()
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["img_{:05d}.png", "{}.png", "frame{}.PNG", "a b-{:03d}.bmp"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path, pictures: np.ndarray, name: str) -> None:
    folder = write(tmp_path / "clip", pictures, name)
    write(tmp_path / "flow", pictures[:3], "flow_x_{:05d}.png")
    for path in (tmp_path / "flow").iterdir():
        path.rename(folder / path.name)
    with open_video(str(folder), fps=12.5) as video:
        assert (len(video), video.fps) == (COUNT, 12.5)
        assert np.array_equal(video.frames([11, 0, 9, 0]), pictures[[11, 0, 9, 0]])
    with open_video(str(folder), short_side=24) as video:
        assert video.frames([3]).shape == (1, 24, 32, 3)


def test_other_folders_are_no_videos(tmp_path: Path, pictures: np.ndarray) -> None:
    assert not frames_in(write(tmp_path / "one", pictures[:1]))
    mixed = write(tmp_path / "mixed", pictures[:3])
    (mixed / "cover.jpg").touch()
    assert not frames_in(mixed)
    (write(tmp_path / "thumbnails", pictures[:3]) / "clip.mp4").touch()
    assert not frames_in(tmp_path / "thumbnails") and not frames_in(tmp_path / "missing")
    with pytest.raises(DecodeError, match="a folder without numbered images"):
        open_video(str(mixed))


def test_index_has_a_video_for_each_folder(data_set: Path) -> None:
    index = read_index(data_set)
    assert len(index) == 8 and index.classes == ["down", "right"]
    assert index.path(5) == str(data_set / "right" / "clip 1")
    assert len(read_index(data_set, stills=True)) == 8 * COUNT
    (data_set.parent / "list.txt").write_text('"set/right/clip 1" 1\n"set/down/clip 0" 0\n')
    rows = read_index(data_set.parent / "list.txt")
    assert [rows.label(number) for number in range(2)] == [1, 0] and frames_in(rows.path(0))
    hashes = {hash_video(index.path(number)) for number in range(8)}
    assert len(hashes) == 2 and "" not in hashes, "the four of a class are equal"


def test_run_trains_and_tests(data_set: Path, tmp_path: Path, checkpoint: Path) -> None:
    small = (
        "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 "
        "DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40 TRAIN.BATCH_SIZE 2 TRAIN.STEPS 2 "
        "TEST.NUM_CLIPS 2 TEST.NUM_CROPS 1 NUM_WORKERS 0 DEVICE cpu DATA.SAMPLING pyslowfast DATA.FPS 15"
    )
    paths = ["DATA.TRAIN", str(data_set), "DATA.VAL", str(data_set), "OUTPUT_DIR", str(tmp_path / "out")]
    assert call(["--cfg", "small.yaml", *small.split(), *paths]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_videos"] == 8


def test_commands_take_folders_of_frames(
    data_set: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--json"]
    assert run(predict, [str(data_set / "down"), *arguments]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["video"] for record in records] == [str(data_set / "down" / f"clip {number}") for number in range(4)]
    output = tmp_path / "annotated.mp4"
    assert run(predict, [str(data_set / "down" / "clip 1"), *arguments, "--output", str(output)]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] == records[1]["predictions"]
    with open_video(str(output)) as video:
        assert (len(video), video.fps) == (COUNT, 25)
    assert run(check_videos, [str(data_set)]) == 0
    assert "8 videos checked" in capsys.readouterr().out
    (data_set / "right" / "clip 2" / "img_00004.png").write_bytes(b"damaged")
    assert run(check_videos, [str(data_set)]) == 0
    assert "img_00004.png" in capsys.readouterr().out


def test_damaged_frame_is_named(tmp_path: Path, pictures: np.ndarray) -> None:
    folder = write(tmp_path / "clip", pictures)
    (folder / "img_00003.png").write_bytes(b"damaged")
    with open_video(str(folder)) as video, pytest.raises(DecodeError, match=r"clip: img_00003\.png: "):
        video.frames([2])
