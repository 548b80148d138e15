from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from octvideo.data import open_video
from octvideo.errors import UserError
from octvideo.fonts import font_for
from octvideo.inference.overlay import VideoWriter, annotate, draw_status, draw_strip, label_colors, output_scale
from octvideo.inference.prediction import Prediction, top_predictions
from octvideo.inference.timeline import Segment

FOUND = [Prediction("arm wrestling", 0.9), Prediction("a label that is much too long for a panel of this size", 0.1)]


@pytest.mark.parametrize("size", [(1, 1), (144, 180), (241, 320), (320, 568), (720, 1280)])
def test_the_picture_is_not_covered(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 200, np.uint8)
    scale = output_scale(size[1], size[0])
    height, width = size[0] * scale, size[1] * scale
    assert min(height, width) >= 320
    drawn = [annotate(frame, found, note) for found, note in ((FOUND * 4, ""), (FOUND[:1], ""), ([], "waiting"))]
    assert {picture.shape for picture in drawn} == {drawn[0].shape}
    assert drawn[0].shape[1] == width and height < drawn[0].shape[0] < 1.3 * height
    assert all((picture[:height] == 200).all() for picture in drawn)
    assert (frame == 200).all()


def test_the_bar_is_as_long_as_the_score() -> None:
    frame = np.zeros((720, 1280, 3), np.uint8)

    def bar(score: float) -> int:
        drawn = annotate(frame, [Prediction("", score)])
        return int((drawn == (64, 196, 255)).all(axis=2).sum(axis=1).max())

    assert bar(0) == 0
    assert bar(0.5) == pytest.approx(bar(1.0) / 2, abs=6)


def test_unsure_predictions_are_muted() -> None:
    frame = np.zeros((720, 1280, 3), np.uint8)
    bright = {
        sure: (annotate(frame, FOUND, sure=sure) == (64, 196, 255)).all(axis=2).any() for sure in (None, True, False)
    }
    assert bright == {None: True, True: True, False: False}
    assert (annotate(frame, FOUND, sure=None) == annotate(frame, FOUND)).all()


def test_annotate_without_predictions_shows_the_note() -> None:
    frame = np.zeros((360, 640, 3), np.uint8)
    assert (annotate(frame, [], "waiting") != annotate(frame, [])).any()


def test_strip_shows_segments_and_cursor() -> None:
    frame = np.zeros((360, 640, 3), np.uint8)
    segments = [Segment(0, 1, "run", 0.9, True), Segment(1, 3, "", 0.2, False), Segment(3, 4, "run", 0.9, True)]
    strip = draw_strip(segments, 640, 360)
    run, grey = (86, 180, 233), (84, 90, 102)
    bars = [tuple(strip[1, x]) for x in (5, 150, 170, 470, 490, 630)]
    assert bars == [run, run, grey, grey, run, run]
    assert (strip[:, :158] == strip[:, 480:638]).all(), "the same label, of the same length"
    plain = annotate(frame, FOUND)
    for position, x in ((0.0, 0), (0.5, 320), (1.0, 639)):
        drawn = annotate(frame, FOUND, strip=strip, position=position)
        assert (drawn[: len(plain) - 10] == plain[: len(plain) - 10]).all() and len(drawn) > len(plain)
        row = drawn[-len(strip)]
        cursor = np.flatnonzero((row == 255).all(axis=1))
        assert cursor.min() <= x <= cursor.max() and len(cursor) <= 3


def test_labels_have_colours_of_their_own() -> None:
    colors = label_colors([Segment(k, k + 1, f"class {k % 10}", 1, None) for k in range(20)])
    assert list(colors) == [f"class {k}" for k in range(10)] and len({*colors.values()}) == 10


def test_status_is_in_the_upper_left_corner() -> None:
    picture = np.full((360, 640, 3), 200, np.uint8)
    places = np.argwhere((draw_status(picture, "25 fps") != 200).any(axis=2))
    assert len(places) and (places.max(axis=0) < (50, 150)).all()
    assert (picture == 200).all()


@pytest.mark.parametrize("name", ["Élan", "прыжок", "άλμα", "سلام"])
def test_letters_are_drawn(name: str) -> None:
    """Not boxes: another picture than that of as many letters that no font has."""
    frame = np.zeros((360, 640, 3), np.uint8)
    drawn, boxes = (annotate(frame, [Prediction(text, 0.5)]) for text in (name, "\U0003fffe" * len(name)))
    assert not np.array_equal(drawn, boxes)
    font = FT2Font(font_for(name).file)
    assert all(font.get_char_index(ord(letter)) for letter in name)


def test_missing_letters_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    rare = "\U00030000"  # in hardly any font
    for _ in range(2):
        annotate(np.zeros((360, 640, 3), np.uint8), [Prediction(f"jump {rare}", 0.5), Prediction(rare, 0.5)])
    assert capsys.readouterr().err.count(f"warning: no font has {rare}: install one") == 1


def test_top_predictions_are_sorted() -> None:
    scores = np.array([0.1, 0.7, 0.2])
    assert top_predictions(scores, "abc", 2) == [Prediction("b", 0.7), Prediction("c", 0.2)]
    assert len(top_predictions(scores, "abc", 9)) == 3


def test_written_video_is_playable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.mp4"
    rate = Fraction(30000, 1001)
    with VideoWriter(path, rate) as writer:
        for index in range(7):
            writer.write(np.full((241, 321, 3), index * 30, np.uint8), index / float(rate))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [frame.shape for frame in frames] == [(242, 322, 3)] * 7
    assert [int(frame.mean() / 30 + 0.5) for frame in frames] == list(range(7))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the index must be in front, for playing while loading"


def test_frames_are_shown_at_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.5, 7.25]
    with VideoWriter(tmp_path / "out.mp4", Fraction(1)) as writer:
        for time in times:
            writer.write(np.zeros((64, 64, 3), np.uint8), time)
    with av.open(str(tmp_path / "out.mp4")) as container:
        found = [frame.time for frame in container.decode(video=0)]
    assert found == pytest.approx(times, abs=1e-4) and found == sorted({*found})


@pytest.mark.parametrize("height", [144, 1080])
def test_colours_are_tagged(tmp_path: Path, height: int) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40]], np.uint8)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(np.repeat(np.repeat(colours[None], height, 0), 64, 1), 0.0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    with open_video(str(tmp_path / "out.mp4"), "pyav") as video:
        found = video.frames([0])[0][height // 2, 32::64]
    assert np.abs(found.astype(int) - colours).max() < 6


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)):
        pass
    assert not list(tmp_path.iterdir())


def test_output_must_be_an_mp4(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out\.avi.*ends in \.mp4"):
        VideoWriter(tmp_path / "out.avi", Fraction(25))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "out.mp4", Fraction(25))


def test_full_disk_keeps_the_old_video(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "full.mp4"
    path.write_text("before")
    frames = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    with (
        pytest.raises(UserError, match=f"--output {path}: cannot be written"),
        VideoWriter(path, Fraction(25)) as writer,
    ):
        for number, frame in enumerate(frames):
            writer.write(frame, number / 25)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_error_leaves_no_partial_video(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8), 0.0)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(16, 1280), (1280, 16), (2, 2), (20, 5000), (1, 1)])
def test_frames_of_odd_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        for number in range(3):
            writer.write(annotate(np.zeros((*size, 3), np.uint8), [Prediction("arm wrestling", 0.9)]), number / 25)
    with av.open(str(tmp_path / "out.mp4")) as container:
        shapes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert len(shapes) == 3 and max(shapes[0]) <= 5000


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        VideoWriter(tmp_path / "folder.mp4", Fraction(25))
