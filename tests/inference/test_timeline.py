"""Predictions over time as segments, of real clips joined to one file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.inference import Predictor
from octvideo.inference.sources import FrameReader
from octvideo.inference.timeline import Segment, find_segments, predict_timeline, smooth
from octvideo.inference.timeline_picture import draw_timeline

CLIP = "clips/actions/mmaction2_part_0.mp4"  # 32 frames, 30 a second
ACTIONS = ("bend", "wave2", "run", "jack")
CLASSES = ("run", "walk")


@pytest.fixture(scope="module")
def joined(
    data: Path, make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    """A video of four actions in turn, and the times of the changes in seconds."""
    clips = []
    for action in ACTIONS:
        with FrameReader(str(data / f"weizmann/{action}/ido_{action}.avi")) as reader:
            clips.append(np.stack(list(reader)))
    path = make_video(tmp_path_factory.mktemp("joined") / "four.mp4", np.concatenate(clips))
    return path, (np.cumsum([0, *map(len, clips)]) / 25).tolist()


def _overlap(segments: list[Segment], start: float, end: float, label: str) -> float:
    """Return intersection over union of a known segment with what was found of its label."""
    found = [segment for segment in segments if segment.label == label]
    common = sum(max(0.0, min(end, segment.end) - max(start, segment.start)) for segment in found)
    return common / (end - start + sum(segment.end - segment.start for segment in found) - common)


def test_segments_of_a_joined_file(joined: tuple[Path, list[float]]) -> None:
    path, changes = joined
    timeline = predict_timeline(path, Predictor(device="cpu"))
    segments = timeline.segments
    assert [segment.label for segment in segments] == list(ACTIONS)
    overlaps = [_overlap(segments, *known) for known in zip(changes, changes[1:], ACTIONS)]
    assert min(overlaps) > 0.6
    assert segments[0].start == 0 and segments[-1].end == pytest.approx(changes[-1], abs=0.02)
    assert all(segment.end == after.start for segment, after in zip(segments, segments[1:]))


def test_steps_have_the_window_around_them(checkpoint: Path, data: Path) -> None:
    # Windows of 15 frames end 8 frames after frame 5 k + 2, the middle of step k; 32 frames are 7 steps of 5.
    predictor = Predictor(checkpoint, device="cpu")
    timeline = predict_timeline(data / CLIP, predictor, every=5)
    expected = np.array([0, 5, 10, 15, 20, 25, 30, 33]) / 30  # the file's last frame comes one frame late
    assert timeline.times == pytest.approx(expected, abs=1e-3)
    with FrameReader(str(data / CLIP)) as reader:
        crops = [predictor.crop(frame) for frame in reader]
    ends = [15, 15, 20, 25, 30, 32, 32]
    windows = np.stack([predictor.score_window(crops[end - 15 : end]) for end in ends])
    assert len({tuple(scores) for scores in windows}) == 5, "it follows the video"
    assert timeline.scores == pytest.approx(smooth(windows, 3), abs=1e-5)


def test_short_video_is_one_segment(
    checkpoint: Path, data: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (7, 64, 64, 3), dtype=np.uint8)
    predictor = Predictor(checkpoint, device="cpu")
    [segment] = predict_timeline(make_video(tmp_path / "short.mp4", frames), predictor).segments
    assert (segment.start, segment.sure) == (0, None) and segment.end == pytest.approx(7 / 25)
    best = predictor.predict(tmp_path / "short.mp4", 1)[0]
    assert (segment.label, segment.score) == (best.label, pytest.approx(best.score, abs=1e-4))


@pytest.mark.parametrize("seconds", [59, 61])
def test_long_videos_show_their_progress(
    seconds: int,
    checkpoint: Path,
    make_video: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_video(tmp_path / "slow.mp4", np.zeros((seconds, 64, 64, 3), np.uint8), fps=1)
    timeline = predict_timeline(path, Predictor(checkpoint, device="cpu"), every=20)
    assert timeline.times.tolist() == [0, 20, 40, *([60] if seconds == 61 else []), seconds]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ([f"slow.mp4: predicted {done}/61  s" for done in (20, 40, 60)] if seconds == 61 else [])


def test_smoothing_averages_fewer_steps_at_the_ends() -> None:
    scores = np.array([[0.0], [3.0], [6.0], [0.0]])
    assert smooth(scores, 3).ravel().tolist() == [1.5, 3.0, 3.0, 3.0]
    assert (smooth(scores, 1) == scores).all()


def _segments(run: list[float], threshold: float | None = None, shortest: int = 2) -> list[Segment]:
    """Find segments in scores of "run"; "walk" has what is left."""
    scores = np.array([[score, 1 - score] for score in run], np.float32)
    return find_segments(np.arange(len(run) + 1), scores, CLASSES, threshold, shortest=shortest)


def test_steps_of_one_label_are_merged() -> None:
    first, second = _segments([0.75, 0.75, 0.25, 0.25, 0.0])
    assert first == Segment(0, 2, "run", 0.75, None)
    assert second == Segment(2, 5, "walk", pytest.approx(0.8333, abs=1e-3), None)  # type: ignore[arg-type]


def test_short_runs_join_their_neighbours() -> None:
    assert [s.label for s in _segments([0.75, 0.75, 0.25, 0.75, 0.75])] == ["run"]
    assert [s.end for s in _segments([0.25, 0.75, 0.75, 0.25])] == [4]
    assert [s.label for s in _segments([0.75, 0.125, 0.75, 0.125])] == ["walk"], "no run is long enough"
    scores = np.array([[0.6, 0.3, 0.1]] * 3 + [[0.3, 0.2, 0.5], [0.2, 0.3, 0.5]] + [[0.1, 0.8, 0.1]] * 3)
    found = find_segments(np.arange(9), scores, ["run", "walk", "jump"], shortest=3)
    assert [(s.label, s.end) for s in found] == [("run", 4), ("walk", 8)], "divided where run and walk change places"


def test_steps_below_the_threshold_are_not_sure() -> None:
    found = _segments([0.9, 0.9, 0.6, 0.55, 0.45, 0.1, 0.1], threshold=0.8)
    assert [(s.start, s.end, s.label, s.sure) for s in found] == [
        (0, 2, "run", True),
        (2, 5, "run", False),
        (5, 7, "walk", True),
    ]
    assert all(segment.sure is (segment.score >= 0.8) for segment in found)


def test_command_writes_the_timeline(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three kinds of files have what ``--json`` prints."""
    found = []
    for suffix in ("csv", "json", "png"):
        arguments = ["--checkpoint", str(checkpoint), "--views", "1", "--every", "2", "--threshold", "0.21", "--json"]
        assert run(main, [str(data / CLIP), *arguments, "--timeline", str(tmp_path / f"out.{suffix}")]) == 0
        found.append(json.loads(capsys.readouterr().out)["segments"])
    assert found[0] == found[1] == found[2] and found[0][0]["start"] == 0 and found[0][-1]["end"] == 1.1
    assert json.loads((tmp_path / "out.json").read_text()) == {"video": str(data / CLIP), "segments": found[0]}
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in entry.items()} for entry in found[0]]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG" and picture.width == 990


@pytest.mark.parametrize(("seconds", "every"), [(59, None), (59, 20), (60, None)])
def test_json_has_segments_of_long_videos(
    seconds: int,
    every: int | None,
    checkpoint: Path,
    make_video: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_video(tmp_path / "slow.mp4", np.zeros((seconds, 64, 64, 3), np.uint8), fps=1)
    arguments = [str(path), "--json", "--checkpoint", str(checkpoint), "--views", "1"]
    assert run(main, [*arguments, *(["--every", str(every)] if every else [])]) == 0
    found = json.loads(capsys.readouterr().out)
    if seconds < 60 and not every:
        assert "segments" not in found
    else:
        assert (found["segments"][0]["start"], found["segments"][-1]["end"]) == (0, seconds)


def test_json_of_a_picture_has_no_segments(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    assert run(main, [str(tmp_path / "picture.png"), "--json", "--every", "1", "--checkpoint", str(checkpoint)]) == 0
    assert "segments" not in json.loads(capsys.readouterr().out)


def test_annotated_video_has_a_moving_cursor(
    checkpoint: Path, joined: tuple[Path, list[float]], tmp_path: Path
) -> None:
    path, changes = joined
    output = tmp_path / "out.mp4"
    arguments = ["--checkpoint", str(checkpoint), "--views", "1", "--every", "30", "--output", str(output)]
    assert run(main, [str(path), *arguments]) == 0
    with FrameReader(str(output)) as reader, FrameReader(str(path)) as original:
        for frame, source in zip(reader, original, strict=True):
            enlarged = np.asarray(Image.fromarray(source).resize((540, 432), Image.Resampling.BICUBIC))
            assert np.abs(frame[:432].astype(int) - enlarged).mean() < 6, "the band does not cover the picture"
            cursor = frame[-10:-8].mean(axis=(0, 2)).argmax()  # it is longer than the strip is high
            assert cursor == pytest.approx(539 * reader.time / changes[-1], abs=4)


def test_picture_has_a_row_for_each_label() -> None:
    segments = [Segment(0, 1, "a", 0.9, True), Segment(1, 2, "b", 0.9, True), Segment(2, 4, "a", 0.2, False)]
    pictures = [draw_timeline(part, "name") for part in (segments[:1], segments[:2], segments)]
    heights = [Image.open(io.BytesIO(picture)).height for picture in pictures]
    assert heights[0] < heights[1] == heights[2]
    assert len({*pictures}) == 3


def test_a_broken_video_leaves_the_old_timeline(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    arguments = ["--checkpoint", str(checkpoint), "--timeline", str(tmp_path / "out.csv")]
    assert run(main, [str(tmp_path / "bad.mp4"), *arguments]) == 2
    assert (tmp_path / "out.csv").read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/picture.png", "--timeline", "{folder}/a.csv"], "picture.png: a picture has no timeline"),
        (["{clip}", "--timeline", "{folder}/missing/a.csv"], "there is no folder"),
        (["{clip}", "{folder}/copy.mp4", "--timeline", "{folder}/a.csv"], "holds one video, not 2"),
    ],
)
def test_timeline_errors_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "copy.mp4").symlink_to((data / CLIP).resolve())
    before = sorted(tmp_path.iterdir())
    assert run(main, [argument.format(clip=data / CLIP, folder=tmp_path) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.mp4", "--timeline", "a.txt"],
        ["a.mp4", "--timeline", ""],
        ["a.mp4", "--timeline", "a.csv", "--features", "f.npz"],
        ["--webcam", "0", "--timeline", "a.csv"],
    ],
)
def test_options_that_exclude_a_timeline(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "--timeline" in capsys.readouterr().err.splitlines()[-1]
